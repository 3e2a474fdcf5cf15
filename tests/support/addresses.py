"""Where the servers of a test are, as the client takes it."""

from __future__ import annotations

from visionq import StoreAddress
from visionq.local import LocalUrls


def store_address(urls: LocalUrls) -> StoreAddress:
    return StoreAddress(
        bucket=urls.s3_bucket,
        endpoint_url=urls.s3_endpoint,
        region=urls.s3_region,
        access_key=urls.s3_access_key,
        secret_key=urls.s3_secret_key,
    )
