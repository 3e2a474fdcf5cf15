"""A client that was used before a fork, as preloading web servers and Celery's prefork pool do."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from tests.support.workers import environment
from visionq.local import LocalUrls
from visionq.objects import ObjectStore

BOUND_SECONDS = 120.0
NO_FORK_WARNING = "ignore:.*fork:DeprecationWarning"
"""Python 3.12 and later warn of a fork beside threads."""

START = """
import asyncio, gc, hashlib, multiprocessing, os, signal, sys, threading, time
from contextlib import suppress
import visionq
from visionq.dead import DeadLetters

client = visionq.Client.from_settings()
letters = DeadLetters.from_settings()

def picture(size):
    "Bytes of that length, of their own, that begin as a JPEG."
    return b"\\xff\\xd8\\xff" + os.urandom(size - 3)

def say(*words):
    "One write, so that the lines of several processes do not mix."
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def use_all_doors(content):
    "Store, records, publisher, watch, fleet, dead letters."
    handle = client.ocr(content)
    with suppress(visionq.WaitTimeout):
        handle.wait(0.05)
    assert handle.status().state == "PENDING"
    client._submitter.fleets.look()
    assert letters.list() == ()
    say("stored", len(content), hashlib.sha256(content).hexdigest())

def run_children(number, body):
    "Children that end by `sys.exit`, as gunicorn's workers do, or at once, as multiprocessing's."
    pids = []
    for index in range(number):
        pid = os.fork()
        if pid == 0:
            try:
                body(index)
            except Exception as error:
                say("failed", repr(error))
                os._exit(1)
            if index % 2:
                os._exit(0)
            sys.exit()
        pids.append(pid)
    deadline = time.monotonic() + 40
    while pids:
        for pid in list(pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                pids.remove(pid)
                say("ended", os.waitstatus_to_exitcode(status))
        if time.monotonic() > deadline:
            for pid in pids:
                say("hangs")
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            break
        time.sleep(0.005)
"""

AFTER_USE = """
use_all_doors(picture(1000))
for round in range({num_rounds}):
    run_children(6, lambda index: use_all_doors(picture(3000 + 100 * index)))
    use_all_doors(picture(1000))
"""

BEFORE_USE = """
run_children(6, lambda index: use_all_doors(picture(3000 + 100 * index)))
use_all_doors(picture(1000))
"""

WHILE_THREADS_UPLOAD = """
def upload():
    while not ended.is_set():
        client.ocr(picture(300_000)).status()

ended = threading.Event()
threads = [threading.Thread(target=upload) for _ in range(3)]
for thread in threads:
    thread.start()  # the first child may be born while they import and connect
for round in range(3):
    run_children(4, lambda index: use_all_doors(picture(3000 + 100 * index)))
ended.set()
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
use_all_doors(picture(1000))
"""

GRANDCHILDREN = """
use_all_doors(picture(1000))
def body(index):
    use_all_doors(picture(1000))
    run_children(2, lambda index: use_all_doors(picture(2000)))
    use_all_doors(picture(1000))
run_children(2, body)
use_all_doors(picture(1000))
"""

UNUSED_IN_THE_CHILD = """
use_all_doors(picture(1000))
handle = client.ocr(picture(1000))
waiter = threading.Thread(target=handle.wait, args=[30])
waiter.start()
time.sleep(0.3)
def body(index):
    global client, letters
    if index < 2:
        client.close()
    del client, letters
    gc.collect()
run_children(4, body)
assert handle.cancel() == "REVOKED"
waiter.join(10)
assert not waiter.is_alive(), "the parent's subscription was cut"
use_all_doors(picture(1000))
"""

BY_MULTIPROCESSING = """
use_all_doors(picture(1000))
context = multiprocessing.get_context("fork")
children = [context.Process(target=use_all_doors, args=[picture(2000)]) for _ in range(6)]
for child in children:
    child.start()
for child in children:
    child.join(40)
    say("hangs" if child.exitcode is None else f"ended {child.exitcode}")
use_all_doors(picture(1000))
"""

OF_THE_ASYNCIO_CLIENT = """
asynchronous = visionq.AsyncClient.from_settings()
async def use(content):
    handle = await asynchronous.ocr(content)
    with suppress(visionq.WaitTimeout):
        await handle.wait(0.05)
    assert (await handle.status()).state == "PENDING"
    say("stored", len(content), hashlib.sha256(content).hexdigest())

def use_and_leave(index):
    asyncio.run(use(picture(2000)))
    os._exit(0)

asyncio.run(use(picture(1000)))
run_children(4, lambda index: asyncio.run(use(picture(2000))))
asyncio.run(use(picture(1000)))

async def main():
    handle = await asynchronous.ocr(picture(1000))
    waiting = asyncio.create_task(handle.wait(30))
    await asyncio.sleep(0.2)
    # These may not return into the loop, nor into the pool of threads, that they were copied from.
    run_children(2, lambda index: (gc.collect(), os._exit(0)))
    await asyncio.to_thread(run_children, 2, use_and_leave)
    assert await handle.cancel() == "REVOKED"
    async with asyncio.timeout(10):
        assert (await waiting).state == "REVOKED"

asyncio.run(main())
"""

SCRIPTS = {
    "after use": (AFTER_USE.format(num_rounds=1), 8),
    "before use": (BEFORE_USE, 7),
    "while threads upload": (WHILE_THREADS_UPLOAD, 13),
    "grandchildren": (GRANDCHILDREN, 10),
    "unused in the child": (UNUSED_IN_THE_CHILD, 2),
    "of the asyncio client": (OF_THE_ASYNCIO_CLIENT, 8),
    "by multiprocessing": (BY_MULTIPROCESSING, 8),
}
"""With the number of uploads that each makes."""


@pytest.mark.parametrize("how", SCRIPTS)
def test_parent_and_children_use_the_same_client(
    urls: LocalUrls, namespace: str, store: ObjectStore, how: str
) -> None:
    check(urls, namespace, store, *SCRIPTS[how])


@pytest.mark.long
def test_12_rounds_of_6_children(urls: LocalUrls, namespace: str, store: ObjectStore) -> None:
    check(urls, namespace, store, AFTER_USE.format(num_rounds=12), 1 + 12 * 7)


def check(
    urls: LocalUrls, namespace: str, store: ObjectStore, script: str, num_uploads: int
) -> None:
    """No child hangs, and every object is what its key says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", NO_FORK_WARNING, "-c", START + script],
        env=environment(urls, namespace),
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS + 10 * num_uploads,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line for line in lines if line[0] not in ("stored", "ended")] == []
    assert {line[1] for line in lines if line[0] == "ended"} <= {"0"}
    stored = [line for line in lines if line[0] == "stored"]
    assert len(stored) == num_uploads
    for _, size, digest in stored:
        content = store.get(f"inputs/{digest}")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (int(size), digest)
