"""Become a server that dies with the process that asked for it. Run as a script, never imported.

    python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...

Asking the kernel from here, between fork and exec but in a fresh interpreter, needs no code in the
forked copy of a threaded program. Linux only: elsewhere the server outlives a killed parent, and
the lock it inherited keeps the state folder closed until someone ends it.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ask_to_die_with_parent() -> None:
    """Have the kernel SIGKILL this process, after exec too, when the parent thread ends.

    Best effort: an interpreter built without ctypes still gets its servers.
    """
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def main() -> None:
    parent_pid, argv = int(sys.argv[1]), sys.argv[2:]
    ask_to_die_with_parent()
    if os.getppid() != parent_pid:
        sys.exit("the process that asked for this server is gone")
    os.execv(argv[0], argv)  # noqa: S606 (a program found by binaries.py)


if __name__ == "__main__":
    main()
