"""A TCP proxy whose replies arrive late: sequential round trips become seconds one can count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def delayed(host: str, port: int, seconds: float) -> Iterator[int]:
    """A port that leads to `host:port` and holds back every reply for `seconds`.

    Replies are held back side by side, as by a long cable: whatever is pipelined costs the delay
    once, whatever waits for its answer first costs it each time.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bench-delay", daemon=True)
    thread.start()
    starting = _serve(host, port, seconds)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(host: str, port: int, seconds: float) -> asyncio.Server:
    async def connected(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection(host, port)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_pass(near_in, far_out, 0.0), _pass(far_in, near_out, seconds))

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter, late: float) -> None:
    loop = asyncio.get_running_loop()
    while content := await source.read(65536):
        loop.call_later(late, target.write, content)
    loop.call_later(late, target.close)


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
