"""The producer of a scene: it submits like a careful web backend, and knows what was accepted."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from visionq import Client
from visionq.errors import BrokerUnavailable

RETRY_SECONDS = 0.1


class Producer:
    """Submits with idempotency keys and tries again until a submit returns: then it is accepted."""

    def __init__(
        self, client: Client, *, name: str, image: str, seed: int, tokens: tuple[int, int]
    ) -> None:
        """`name` and `seed` go into the keys: with the same ones, tasks would be the same, too."""
        self._client = client
        self._image = image
        self._prefix = f"{name}-{seed}"
        self._tokens = tokens
        self._random = random.Random(seed)
        self._lengths: dict[str, int] = {}
        self._lock = threading.Lock()
        self._num_keys = 0
        self.accepted: list[str] = []
        self.num_refused = 0

    def submit(
        self,
        count: int = 1,
        *,
        word: str = "",
        tokens: int | None = None,
        image: str | None = None,
    ) -> Sequence[str]:
        """So many tasks, one after the other. `word` does something to whoever runs them."""
        return [self._submit(word, tokens, image) for _ in range(count)]

    def steadily(self, *, count: int, per_second: float) -> Stream:
        """So many tasks at that rate, from a thread, over when the block is."""
        return Stream(self._submit, count, per_second)

    def new_key(self) -> str:
        with self._lock:
            self._num_keys += 1
            return f"{self._prefix}-{self._num_keys}"

    def try_once(
        self, key: str, *, word: str = "", tokens: int | None = None, image: str | None = None
    ) -> str:
        """One submit, accepted when it returns. Raises `BrokerUnavailable`."""
        with self._lock:
            # The same for each try with a key: other content is a conflict.
            length = tokens or self._lengths.setdefault(key, self._random.randint(*self._tokens))
        handle = self._client.submit(
            "ask",
            image or self._image,
            f"What is this? {word}",
            num_crops=1,
            max_new_tokens=length,
            idempotency_key=key,
            labels={"fault": word} if word else {},
        )
        with self._lock:
            self.accepted.append(handle.id)
        return handle.id

    def _submit(self, word: str = "", tokens: int | None = None, image: str | None = None) -> str:
        key = self.new_key()
        while True:
            try:
                return self.try_once(key, word=word, tokens=tokens, image=image)
            except BrokerUnavailable:
                self.num_refused += 1
                sleep(RETRY_SECONDS)


class Stream:
    """A thread that submits."""

    def __init__(self, submit: Callable[[], object], count: int, per_second: float) -> None:
        self._submit = submit
        self._count = count
        self._gap_seconds = 1 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self._stop.set()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        began = monotonic()
        for number in range(self._count):
            if self._stop.wait(max(0.0, began + number * self._gap_seconds - monotonic())):
                return
            self._submit()
