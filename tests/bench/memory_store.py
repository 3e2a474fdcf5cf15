"""An object store that is a dictionary: what is timed around it is ours, not S3's."""

from __future__ import annotations

from visionq.errors import ObjectMissing
from visionq.objects import ObjectStore, StoreAddress


class MemoryStore(ObjectStore):
    """`ObjectStore` without a server, for one process."""

    def __init__(self) -> None:
        super().__init__(StoreAddress(bucket="memory"))
        self._objects: dict[str, bytes] = {}

    def put(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        self._objects[key] = content

    def put_new(
        self, key: str, content: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        return self._objects.setdefault(key, content) is content

    def get(self, key: str, *, bucket: str | None = None, max_bytes: int | None = None) -> bytes:
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectMissing(f"there is no object {key!r}") from None

    def exists(self, key: str) -> bool:
        return key in self._objects

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def check_bucket(self) -> None:
        """There is no bucket that could be missing."""

    def close(self) -> None:
        self._objects.clear()
