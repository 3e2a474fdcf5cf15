"""The state folder: who owns it, and files in it that only its user may read."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visionq.local.errors import FolderInUse

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

# After a SIGKILL of the owner the kernel ends its servers within milliseconds.
ORPHANS_SECONDS = 5.0
POLL_SECONDS = 0.02


@contextmanager
def own(folder: Path) -> Iterator[int]:
    """Own the folder until the block ends; yields the lock's file descriptor.

    Servers inherit the descriptor: a server that outlives its owner keeps the folder locked, so two
    servers never write the same data. Raises FolderInUse.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        _acquire(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        # Closing is not enough: a process forked by the caller may hold the descriptor too.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _acquire(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + ORPHANS_SECONDS
    while not _try_lock(lock):
        owner_pid = _read_owner(lock)
        if _is_alive(owner_pid) or time.monotonic() > deadline:
            raise FolderInUse(folder, owner_pid)
        time.sleep(POLL_SECONDS)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(lock: int) -> int | None:
    """The owner's pid; None in the moment between its lock and its first write."""
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_private(path: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old text or the new one, never a part."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
