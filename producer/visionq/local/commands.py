"""How each server is started: program, arguments, environment and standard input, as values.

Secrets go through standard input or the environment, never through arguments, which every user of
the machine can read.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from visionq.local.ports import HOST

ServerName = Literal["valkey", "s3"]


@dataclass(frozen=True)
class Command:
    name: ServerName
    argv: tuple[str, ...]
    port: int
    folder: Path  # the server's data and its working directory
    log_path: Path
    environment: Mapping[str, str] = field(repr=False)
    stdin: str = field(repr=False)


def valkey_command(binary: Path, *, port: int, password: str, state_folder: Path) -> Command:
    """Every write goes to the append-only file, which is synced to disk once a second."""
    config = {
        "bind": HOST,
        "protected-mode": "yes",
        "port": str(port),
        "requirepass": password,
        "dir": "./",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',  # no snapshots beside the append-only file
        "maxmemory-policy": "noeviction",  # a full queue must refuse tasks, not forget some
        "daemonize": "no",
        "logfile": '""',
    }
    return Command(
        name="valkey",
        argv=(str(binary), "-"),  # read the configuration from standard input
        port=port,
        folder=state_folder / "valkey",
        log_path=state_folder / "valkey.log",
        environment=os.environ,
        stdin="".join(f"{key} {value}\n" for key, value in config.items()),
    )


def rclone_command(
    binary: Path, *, port: int, access_key: str, secret_key: str, state_folder: Path
) -> Command:
    """Each bucket is a folder, each object a plain file in it."""
    data = state_folder / "s3"
    # Every rclone flag can come from RCLONE_*: the user's own settings must not reach this server.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RCLONE_")}
    address = f"{HOST}:{port}"
    flags = ("--addr", address, "--config", os.devnull)
    return Command(
        name="s3",
        argv=(str(binary), "serve", "s3", *flags, str(data)),
        port=port,
        folder=data,
        log_path=state_folder / "s3.log",
        environment=inherited | {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'},
        stdin="",
    )
