"""Where the running servers are, and the file that tells other commands."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from visionq.local.errors import NotAnswering, WrongKeys
from visionq.local.folder import write_private
from visionq.local.probes import StoreProbe, ping_broker

FILE_NAME = "urls.json"


@dataclass(frozen=True)
class LocalUrls:
    """How to reach both servers; repr() shows no secret."""

    broker_url: str = field(repr=False)  # holds the password
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    s3_bucket: str
    s3_region: str

    @property
    def broker_address(self) -> str:
        """The broker's host and port, without the password."""
        return urlsplit(self.broker_url).netloc.rpartition("@")[2]


def check_keys(urls: LocalUrls) -> None:
    """Return if both servers answer and take the keys. Raises WrongKeys or NotAnswering."""
    ping_broker(urls.broker_url, urls.broker_address)
    store = StoreProbe(urls.s3_endpoint, urls.s3_access_key, urls.s3_secret_key, urls.s3_region)
    store.list_buckets()


def write_urls(state_folder: Path, urls: LocalUrls) -> None:
    write_private(state_folder / FILE_NAME, json.dumps(dataclasses.asdict(urls)))


def read_urls(state_folder: Path) -> LocalUrls | None:
    """The URLs of the servers that run in that folder now; None if none answer there.

    The servers are asked, so a file left behind by a killed process is not believed.
    """
    try:
        text = (state_folder / FILE_NAME).read_text(encoding="utf-8")
        urls = LocalUrls(**json.loads(text))
        check_keys(urls)
    except (FileNotFoundError, ValueError, TypeError, NotAnswering, WrongKeys):
        return None
    return urls


def remove_urls(state_folder: Path) -> None:
    (state_folder / FILE_NAME).unlink(missing_ok=True)
