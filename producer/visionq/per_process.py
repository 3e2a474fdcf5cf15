"""What a process may share neither with its forked children nor with a call that it interrupts.

A fork copies sockets, pools and locks: two processes that write to one connection mix their
requests, and a lock that another thread held at that moment stays locked in the child for ever. So
whatever holds a connection is built anew in each process, at its first use there. What a child has
inherited is kept and never touched: closing it could say goodbye over a connection of the parent's.

A signal handler runs in the middle of whatever the main thread was doing, perhaps while that held
one of the locks in the pools of kombu and urllib3, which no thread may take twice. So a call that
interrupts another one of its thread gets a value of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Generic, TypeAlias, TypeVar

from visionq.errors import ReentrantCall

T = TypeVar("T")

_building = threading.RLock()
"""Held while a value is built, and by who forks: a child is never born in the middle of an import,
whose lock would stay locked in it."""

_inherited: list[object] = []


class _Builder:
    """The thread that holds `_building` and is at work under it."""

    ident: int | None = None


@contextmanager
def no_fork() -> Iterator[None]:
    """Nobody forks meanwhile: for imports that do not stand at the head of their file.

    Raises `ReentrantCall` where the interrupted call of this thread is in the middle of that.
    """
    if _Builder.ident == threading.get_ident():
        raise ReentrantCall
    with _building:
        _Builder.ident = threading.get_ident()
        try:
            yield
        finally:
            _Builder.ident = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_building.acquire,
        after_in_parent=_building.release,
        after_in_child=_building.release,
    )


def import_unforked(name: str) -> None:
    """Import a module under `no_fork`, and take no lock where it is there already."""
    if not _is_imported(name):
        with no_fork():
            import_module(name)


def _is_imported(name: str) -> bool:
    """Wholly: a module stands in `sys.modules` before its code has run."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


class _Calls(threading.local):
    """How many calls of the current thread are under way."""

    depth = 0


class _Value(Generic[T]):
    """A value, and how many calls are using it. It is closed when none does any more."""

    def __init__(self, content: T) -> None:
        self.content = content
        self._lock = threading.RLock()
        self._num_users = 0
        self._close: Callable[[T], object] | None = None

    def enter(self) -> bool:
        """Whether it may be used: it is not closed."""
        with self._lock:
            if self._close is not None:
                return False
            self._num_users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._num_users -= 1
            close = self._close if self._num_users == 0 else None
        if close is not None:
            close(self.content)

    def close(self, close: Callable[[T], object]) -> None:
        with self._lock:
            self._close = close
            is_used = self._num_users > 0
        if not is_used:
            close(self.content)


class PerProcess(Generic[T]):
    """A value that is built when it is needed, once in each process. Thread-safe.

    It is closed when its owner is dropped and when the interpreter exits, if not before. Neither
    `build` nor `close` may hold a reference to the owner, who would never be dropped then.
    """

    def __init__(self, build: Callable[[], T], close: Callable[[T], object]) -> None:
        self._build = build
        self._built: _Built[T] = {}
        self._calls = _Calls()
        self._close = close
        weakref.finalize(self, _close, self._built, close)

    @contextmanager
    def use(self) -> Iterator[T]:
        """The value, which no interrupted call of this thread is using.

        It is not closed while it is used. Raises `ReentrantCall` where the interrupted call is
        just building it.
        """
        depth = self._calls.depth
        self._calls.depth = depth + 1
        try:
            value = self._get(depth)
            while not value.enter():
                value = self._get(depth)
            try:
                yield value.content
            finally:
                value.leave()
        finally:
            self._calls.depth = depth

    def get(self) -> T:
        """The value, for what may be used by interrupting calls as well."""
        key = os.getpid(), 0
        try:
            return self._built[key].content
        except KeyError:
            pass
        return self._build_once(key).content

    def close(self, close: Callable[[T], object] | None = None) -> None:
        """Close what this process has built, in another way where one is given.

        A later use builds anew.
        """
        _close(self._built, close or self._close)

    def _get(self, depth: int) -> _Value[T]:
        key = os.getpid(), depth
        try:
            return self._built[key]
        except KeyError:
            pass
        return self._build_once(key)

    def _build_once(self, key: tuple[int, int]) -> _Value[T]:
        with no_fork():
            if key not in self._built:
                self._built[key] = _Value(self._build())
            return self._built[key]


def _close(built: _Built[T], close: Callable[[T], object]) -> None:
    for key in list(built):
        value = built.pop(key, None)
        if value is None:
            continue
        if key[0] == os.getpid():
            value.close(close)
        else:
            _inherited.append(value)


_Built: TypeAlias = dict[tuple[int, int], _Value[T]]
"""By process id, and by how many calls of the same thread were interrupted."""
