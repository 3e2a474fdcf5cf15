"""What a state folder keeps between runs: keys and ports, so that its URLs stay the same."""

import dataclasses
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from visionq.local.errors import DamagedState
from visionq.local.folder import write_private
from visionq.local.ports import propose_port

NUM_SECRET_BYTES = 24


@dataclass(frozen=True)
class Identity:
    """Keys are hexadecimal: they need no quoting in a URL, in a Valkey configuration or in CSV."""

    redis_password: str = field(repr=False)
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    redis_port: int
    s3_port: int

    @classmethod
    def create(cls) -> Self:
        return cls(
            redis_password=secrets.token_hex(NUM_SECRET_BYTES),
            s3_access_key="vq" + secrets.token_hex(8),
            s3_secret_key=secrets.token_hex(NUM_SECRET_BYTES),
            redis_port=propose_port(),
            s3_port=propose_port(),
        )

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The kept identity, else a new one, not yet saved. Raises DamagedState."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls.create()
        except (ValueError, TypeError) as error:
            raise DamagedState(path) from error

    def save(self, path: Path) -> None:
        write_private(path, json.dumps(dataclasses.asdict(self)))
