"""The object store: S3 and whatever speaks its language. The only door to boto3.

boto3 is imported when the first object is touched, so that a producer that sends keys never
loads it. Nothing here relies on metadata or content types: not every compatible store keeps them.
Whether it honours conditional writes has to be asked (`honours_put_new`).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from visionq.broker_urls import BREAKING
from visionq.errors import (
    BucketMissing,
    ObjectMissing,
    ObjectTooLarge,
    SettingsError,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    VisionqError,
    WrongClock,
)
from visionq.names import input_key
from visionq.per_process import PerProcess, import_unforked
from visionq.redaction import redacted

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

    from visionq.signed import SignedRequests, TooLarge

_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"})
MOST_SKEW_SECONDS = 15 * 60
"""S3 takes no request whose time is further off than that."""
_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "403", "401"}
)
_PASSING = frozenset({"SlowDown", "RequestTimeout", "ConditionalRequestConflict"})
_VARIABLES = "VISIONQ_STORAGE__..."
PRECONDITION_FAILED = 412
NOT_IMPLEMENTED = 501
_MD5 = re.compile(r"[0-9a-f]{32}")
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """Where the bucket is and how to get in. Empty keys mean: as boto3 finds them."""

    bucket: str
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = None

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what can be no address."""
        texts: tuple[object, ...] = (self.endpoint_url, self.access_key, self.secret_key)
        if not isinstance(self.bucket, str) or not self.bucket or not isinstance(self.region, str):
            raise SettingsError("storage: bucket and region must be strings, the bucket not empty")
        if not all(text is None or isinstance(text, str) for text in texts):
            raise SettingsError("storage: endpoint_url, access_key, secret_key: strings, or None")
        if self.endpoint_url is not None and not _is_endpoint(self.endpoint_url):
            raise SettingsError(
                "storage: endpoint_url is not http[s]://host:port, with spaces and ' \" < > ` "
                "percent-encoded"
            )

    def __repr__(self) -> str:
        text = f"StoreAddress(bucket={self.bucket!r}, endpoint_url={self.endpoint_url!r})"
        return redacted(text)


@dataclass(frozen=True, slots=True)
class _Doors:
    """boto3's client, and the short way for whole objects; None where only boto3 knows it."""

    client: S3Client
    signed: SignedRequests | None

    def close(self) -> None:
        self.client.close()
        if self.signed is not None:
            self.signed.close()


class ObjectStore:
    """Objects of one bucket, as bytes. Thread-safe, and usable in a forked child.

    Every method raises a `StorageError`: `StorageUnavailable` and `StorageDenied` concern the
    store, `BucketMissing` and `ObjectMissing` what was looked for. The first call, which opens the
    store, may also raise `SettingsError` for an address that boto3 knows to be none, and
    `ReentrantCall` in a signal handler.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        timeout_seconds: float = 10.0,
        max_connections: int = 32,
    ) -> None:
        self.bucket = address.bucket
        build = partial(_open_doors, address, timeout_seconds, max_connections)
        self._doors = PerProcess(build, _Doors.close)

    def put(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        with self._opened(key) as doors:
            signed = doors.signed
            if signed is None or not signed.put(self.bucket, key, content, content_type):
                doors.client.put_object(
                    Bucket=self.bucket, Key=key, Body=content, ContentType=content_type
                )

    def put_new(
        self, key: str, content: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Store it unless there is an object of this key: False then.

        A store that does not honour the condition overwrites and says True.
        """
        with self._opened(key) as doors:
            client, signed = doors.client, doors.signed
            if signed and signed.put(self.bucket, key, content, content_type, is_new=True):
                return True
            # Whatever else the short way was told, it is told again: a first reply that was lost
            # makes an object of ours look like another's, which the caller has to look at.
            try:
                client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=content,
                    ContentType=content_type,
                    IfNoneMatch="*",
                )
            except client.exceptions.ClientError as exc:
                if exc.response["ResponseMetadata"]["HTTPStatusCode"] == PRECONDITION_FAILED:
                    return False
                raise
            return True

    def put_input(self, content: bytes) -> str:
        """Store an input under its digest, unless it is there already. Returns its key.

        What is there is known by one HEAD: an object of another size, or with another MD5, is not
        the input, and is replaced. The ETag is the MD5 on most stores, the embedded one among
        them; not on AWS under KMS or in a directory bucket. There, only the size is compared.
        """
        key = input_key(content)
        if not self._holds(key, content):
            self.put(key, content)
        return key

    def honours_put_new(self) -> bool:
        """Whether `put_new` keeps what is there. Writes a small object and removes it."""
        key = f"probes/{uuid.uuid4()}"
        try:
            self.put(key, b"first")
            return not self.put_new(key, b"second")
        except (StorageDenied, StorageUnavailable):
            raise
        except StorageError:
            return False  # it does not know the condition at all
        finally:
            self.delete(key)

    def get(self, key: str, *, bucket: str | None = None, max_bytes: int | None = None) -> bytes:
        """The object's bytes. Above `max_bytes` nothing is read and `ObjectTooLarge` is raised."""
        where = bucket or self.bucket
        with self._opened(key) as doors:
            content = doors.signed.get(where, key, max_bytes) if doors.signed else None
            if content is None:
                content = _get(doors.client, where, key, max_bytes)
        if isinstance(content, bytes):
            return content
        raise ObjectTooLarge(f"{key}: {content.num_bytes} > {max_bytes} bytes")

    def get_start(self, key: str, num_bytes: int, *, bucket: str | None = None) -> bytes:
        """The object's first bytes: so many, or all where there are fewer."""
        with self._opened(key) as doors:
            reply = doors.client.get_object(
                Bucket=bucket or self.bucket, Key=key, Range=f"bytes=0-{num_bytes - 1}"
            )
            with reply["Body"] as body:
                return body.read(num_bytes)  # not every store knows ranges

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except ObjectMissing:
            return False
        return True

    def delete(self, key: str) -> None:
        with self._opened(key) as doors:
            doors.client.delete_object(Bucket=self.bucket, Key=key)

    def check_bucket(self) -> None:
        """Raise unless the bucket is there and may be used."""
        with self._opened("", is_bucket=True) as doors:
            doors.client.head_bucket(Bucket=self.bucket)

    def close(self) -> None:
        self._doors.close()

    def _head(self, key: str) -> Mapping[str, Any]:
        with self._opened(key) as doors:
            return doors.client.head_object(Bucket=self.bucket, Key=key)

    def _holds(self, key: str, content: bytes) -> bool:
        """Whether the object has this content, as far as its head can tell."""
        try:
            head = self._head(key)
        except ObjectMissing:
            return False
        if head["ContentLength"] != len(content):
            return False
        etag = head.get("ETag", "").strip('"')
        # Under a key of its owner's, the ETag looks like an MD5 and is none.
        is_encrypted = "SSECustomerAlgorithm" in head or "SSEKMSKeyId" in head
        if is_encrypted or _MD5.fullmatch(etag) is None:
            return True
        return bool(etag == hashlib.md5(content, usedforsecurity=False).hexdigest())

    @contextmanager
    def _opened(self, key: str, *, is_bucket: bool = False) -> Iterator[_Doors]:
        """The doors, while their errors become ours."""
        try:
            with self._doors.use() as doors:
                yield doors
        except VisionqError:
            raise
        except Exception as exc:
            import_unforked("botocore.exceptions")
            from botocore.exceptions import (
                BotoCoreError,
                ClientError,
                EndpointConnectionError,
                NoCredentialsError,
            )

            if isinstance(exc, ClientError):
                self._raise_mapped(exc, key, is_bucket=is_bucket)
            if isinstance(exc, NoCredentialsError):
                raise StorageDenied(
                    "no access key is set for the object store; set storage.access_key and "
                    f"storage.secret_key ({_VARIABLES}), or run `visionq up` here"
                ) from exc
            if isinstance(exc, EndpointConnectionError):
                raise StorageUnavailable(
                    f"object store: {_said(exc).rstrip('.')}; "
                    f"set storage.endpoint_url ({_VARIABLES}), or run `visionq up` here"
                ) from exc
            if isinstance(exc, BotoCoreError | OSError):
                raise StorageUnavailable(f"object store: {_said(exc)}") from exc
            raise

    def _raise_mapped(self, exc: ClientError, key: str, *, is_bucket: bool) -> NoReturn:
        code = exc.response["Error"].get("Code", "")
        status = exc.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _SKEWED or (status in (400, 401, 403) and _is_clock_off(exc)):
            raise WrongClock from exc
        if code in _DENIED or status in (401, 403):
            raise StorageDenied(f"the object store refused access ({code})") from exc
        if code == "NoSuchBucket" or (is_bucket and status == 404):
            raise BucketMissing(f"there is no bucket {self.bucket!r}") from exc
        if code in _MISSING:
            raise ObjectMissing(f"there is no object {key!r}") from exc
        if (status >= 500 and status != NOT_IMPLEMENTED) or code in _PASSING:
            raise StorageUnavailable(f"the object store answered {status} {code}") from exc
        raise StorageError(f"the object store answered {status} {code} for {key!r}") from exc


def _is_clock_off(exc: ClientError) -> bool:
    """Whether the store's reply has a time so far from ours that it must refuse what we sign.

    The reply to a HEAD has nothing else that says so.
    """
    from email.utils import parsedate_to_datetime

    try:
        said = exc.response["ResponseMetadata"]["HTTPHeaders"]["date"]
        return abs(parsedate_to_datetime(said).timestamp() - time()) > MOST_SKEW_SECONDS
    except (KeyError, ValueError, TypeError, OverflowError):
        return False


def _said(exc: Exception) -> str:
    return redacted(f"{type(exc).__name__}: {exc}")


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    is_whole = url.isprintable() and BREAKING.search(url) is None
    is_plain = not parts.query and not parts.fragment
    return bool(
        is_whole and is_plain and parts.scheme in ("http", "https") and parts.hostname and port != 0
    )


def _open_doors(address: StoreAddress, timeout_seconds: float, max_connections: int) -> _Doors:
    import boto3
    from botocore.config import Config

    from visionq.signed import SignedRequests

    connect_seconds = min(3.0, timeout_seconds)
    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=max_connections,
        signature_version="s3v4",
        s3={"addressing_style": "path" if address.endpoint_url else "auto"},
        # Some compatible stores refuse the trailing checksum that boto3 sends by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # boto3's default session is not made for several threads; a session of one's own is.
    session = boto3.session.Session(
        address.access_key, address.secret_key, region_name=address.region
    )
    # Requests are signed with the keys; a user in the address would only get into errors.
    endpoint_url = _without_user(address.endpoint_url) if address.endpoint_url else None
    try:
        client = session.client(
            "s3", endpoint_url=endpoint_url, region_name=address.region, config=config
        )
    except ValueError as exc:  # of a host or region that botocore knows to be none
        raise SettingsError(f"storage: {redacted(str(exc))}") from None
    credentials = session.get_credentials()
    # How buckets become addresses is known of an endpoint that was given, and of AWS; where the
    # environment or a profile names another endpoint, it is boto3's to know.
    is_aws = (urlsplit(client.meta.endpoint_url).hostname or "").endswith(".amazonaws.com")
    is_known = address.endpoint_url is not None or is_aws
    if credentials is None or not is_known:
        return _Doors(client, None)
    signed = SignedRequests(
        session._session,  # noqa: SLF001 boto3 has no name of its own for it
        credentials,
        endpoint_url=client.meta.endpoint_url,
        region=client.meta.region_name,
        is_path_style=address.endpoint_url is not None,
        connect_seconds=connect_seconds,
        read_seconds=timeout_seconds,
        max_connections=max_connections,
    )
    return _Doors(client, signed)


def _without_user(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def _get(client: S3Client, bucket: str, key: str, max_bytes: int | None) -> bytes | TooLarge:
    from visionq.signed import TooLarge

    reply = client.get_object(Bucket=bucket, Key=key)
    with reply["Body"] as body:
        if max_bytes is not None and reply["ContentLength"] > max_bytes:
            return TooLarge(reply["ContentLength"])
        return body.read()


def split_s3_url(url: str) -> tuple[str, str]:
    """`s3://bucket/some/key` as (bucket, key). Raises `ValueError` when a part is missing.

    Cut by hand: in a key, `?` and `#` are letters like any other.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket or not key:
        raise ValueError(f"{url!r} is not s3://bucket/key")
    return bucket, key
