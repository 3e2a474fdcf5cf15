"""The bench's object store, for what goes around the client."""

from __future__ import annotations

from tests.bench.rig import Rig
from visionq.objects import ObjectStore, StoreAddress


def store_of(rig: Rig) -> ObjectStore:
    """A store of the rig's bucket; whoever takes it closes it."""
    urls = rig.urls
    return ObjectStore(
        StoreAddress(
            bucket=urls.s3_bucket,
            endpoint_url=urls.s3_endpoint,
            region=urls.s3_region,
            access_key=urls.s3_access_key,
            secret_key=urls.s3_secret_key,
        )
    )
