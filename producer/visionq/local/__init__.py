"""The embedded servers: Valkey and S3 on one machine, for laptops, the demo and the tests.

Linux and macOS; extra `local`. Both listen on the loopback interface only, without TLS. This is not
the store for production: there, use servers of your own and point the settings at them.
"""

from visionq.local.commands import ServerName
from visionq.local.errors import (
    BinaryMissing,
    DamagedState,
    FolderInUse,
    LocalServerError,
    NotAnswering,
    PortTaken,
    ServerDied,
    WrongKeys,
)
from visionq.local.servers import LocalServers
from visionq.local.urls import LocalUrls, check_keys, read_urls, write_urls

__all__ = [
    "BinaryMissing",
    "DamagedState",
    "FolderInUse",
    "LocalServerError",
    "LocalServers",
    "LocalUrls",
    "NotAnswering",
    "PortTaken",
    "ServerDied",
    "ServerName",
    "WrongKeys",
    "check_keys",
    "read_urls",
    "write_urls",
]
