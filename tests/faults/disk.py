"""A disk that is full for one process: a limit on the size of the files it writes.

It takes no mount and no root, and can be lifted again. A write fails with EFBIG where on a full
disk it would with ENOSPC. The signal that comes with that is ignored by Python, and by a program
that Python has started.
"""

from __future__ import annotations

import os
import resource


def fill_disk(pid: int, *, file_bytes: int = 0) -> None:
    """From now on no file that the process writes can become larger."""
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_bytes, most))


def make_room(pid: int) -> None:
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def through_a_pipe(file: int) -> int:
    """A descriptor to write to in place of the file's, whatever the limit of this process.

    `cat` writes what comes. It has the limit that is in force now, and ends with its last line when
    this process has ended, in whatever way.
    """
    reader, writer = os.pipe()
    ends = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, file, 1)]
    os.posix_spawnp("cat", ["cat"], os.environ, file_actions=ends)
    os.close(reader)
    return writer
