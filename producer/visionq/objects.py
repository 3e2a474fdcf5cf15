"""The object store: S3 and whatever speaks its language. The only door to boto3.

What its replies mean is said in `store_replies`. boto3 is imported when the first object is
touched, so that a producer that sends keys never loads it. Nothing here relies on metadata or
content types: not every compatible store keeps them. Whether it honours conditional writes has to
be asked (`honours_put_new`).
"""

from __future__ import annotations

import hashlib
import http.client
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from visionq.bodies import (
    BadBody,
    BodyChanged,
    BrokenOff,
    NotOfAStore,
    TooLarge,
    body_of,
    md5_hex,
    md5_of,
    read_body,
)
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
from visionq.store_replies import (
    Asked,
    Meaning,
    Operation,
    is_of_credentials,
    is_refused_condition,
    meaning,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

    from visionq.signed import SignedRequests

T = TypeVar("T")

MOST_SKEW_SECONDS = 15 * 60
"""S3 takes no request whose time is further off than that."""
_VARIABLES = "VISIONQ_STORAGE__..."
OK = 200
PARTIAL = 206
PRECONDITION_FAILED = 412
RANGE_NOT_SATISFIABLE = 416
PROBE_FOLDER = "probes"


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
class Listed:
    """An object in a listing. `stored_at`: seconds since the epoch, by the store's clock."""

    key: str
    stored_at: float


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

    Every method raises a `StorageError`: `StorageUnavailable` passes, `StorageDenied` and
    `BucketMissing` are for whoever runs the service to mend, `ObjectMissing` is about the key
    (`store_replies`). The first call, which opens the store, may also raise `SettingsError` for an
    address that boto3 knows to be none, and `ReentrantCall` in a signal handler.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        timeout_seconds: float = 10.0,
        max_connections: int = 32,
    ) -> None:
        self.bucket = address.bucket
        self._timeout_seconds = timeout_seconds
        build = partial(_open_doors, address, timeout_seconds, max_connections)
        self._doors = PerProcess(build, _Doors.close)

    def put(self, key: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        with self._opened(key, "put") as doors:
            signed = doors.signed
            if signed is None or not signed.put(self.bucket, key, content, content_type):
                body = body_of(content, self._timeout_seconds)
                reply = doors.client.put_object(
                    Bucket=self.bucket, Key=key, Body=body, ContentType=content_type
                )
                NotOfAStore.raise_without_etag(reply["ResponseMetadata"]["HTTPHeaders"])

    def put_new(
        self, key: str, content: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Store it unless there is an object of this key: False then.

        A store that does not honour the condition overwrites and says True.
        """
        with self._opened(key, "put") as doors:
            client, signed = doors.client, doors.signed
            if signed and signed.put(self.bucket, key, content, content_type, is_new=True):
                return True
            # Whatever else the short way was told, it is told again: a first reply that was lost
            # makes an object of ours look like another's, which the caller has to look at.
            try:
                reply = client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=body_of(content, self._timeout_seconds),
                    ContentType=content_type,
                    IfNoneMatch="*",
                )
            except client.exceptions.ClientError as exc:
                if exc.response["ResponseMetadata"]["HTTPStatusCode"] == PRECONDITION_FAILED:
                    return False
                raise
            NotOfAStore.raise_without_etag(reply["ResponseMetadata"]["HTTPHeaders"])
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
        key = f"{PROBE_FOLDER}/{uuid.uuid4()}"
        try:
            self.put(key, b"first")
            return not self.put_new(key, b"second")
        except StorageUnavailable as exc:
            if is_refused_condition(exc.status, exc.code):
                return False  # it does not know the condition at all
            raise
        finally:
            self.delete(key)

    def get(self, key: str, *, bucket: str | None = None, max_bytes: int | None = None) -> bytes:
        """The object's bytes. Above `max_bytes` nothing is read and `ObjectTooLarge` is raised."""
        return self._get(key, bucket, max_bytes, is_checked=False)

    def get_checked(
        self,
        key: str,
        *,
        bucket: str | None = None,
        max_bytes: int | None = None,
        trusts_etag: bool = True,
    ) -> bytes:
        """As `get`. Raises `StorageUnavailable` for bytes that are not those of their ETag.

        `trusts_etag`: False takes those that come the same twice: on some stores, an ETag looks
        like an MD5 and is none.
        """
        try:
            return self._get(key, bucket, max_bytes, is_checked=True)
        except StorageUnavailable as exc:
            if trusts_etag or not isinstance(exc.__cause__, BodyChanged):
                raise
            again = self._get(key, bucket, max_bytes, is_checked=False)
            if hashlib.sha256(again).hexdigest() != exc.__cause__.digest:
                raise
            return again

    def get_start(self, key: str, num_bytes: int, *, bucket: str | None = None) -> bytes:
        """The object's first bytes: so many, or all where there are fewer."""
        with self._opened(key, "get", bucket) as doors:
            asked = {"Bucket": bucket or self.bucket, "Key": key}
            asked["Range"] = f"bytes=0-{num_bytes - 1}"
            # Not every store knows ranges: then the whole object comes, and is not read to its end.
            read = partial(self._body_of, statuses=(OK, PARTIAL), at_most=num_bytes)
            try:
                return _asked_twice(doors.client, asked, read)
            except doors.client.exceptions.ClientError as exc:
                if _status(exc) == RANGE_NOT_SATISFIABLE:
                    return b""  # of an empty object no byte is the first
                raise

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except ObjectMissing:
            return False
        return True

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        """The objects whose keys begin so, in the store's order, up to 1,000 at a time.

        That is the order of their keys, but for a directory bucket of AWS.
        """
        more: Any = {}
        while True:
            with self._opened(prefix, "list") as doors:
                reply = doors.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more)
                listed, token = _page(reply)
            yield listed
            if token is None:
                return
            more = {"ContinuationToken": token}

    def delete(self, key: str) -> None:
        with self._opened(key, "delete") as doors:
            doors.client.delete_object(Bucket=self.bucket, Key=key)

    def check_bucket(self) -> None:
        """Raise unless the bucket is there and may be used."""
        with self._opened("", "bucket") as doors:
            doors.client.head_bucket(Bucket=self.bucket)

    def close(self) -> None:
        self._doors.close()

    def _get(
        self, key: str, bucket: str | None, max_bytes: int | None, *, is_checked: bool
    ) -> bytes:
        with self._opened(key, "get", bucket) as doors:
            where, signed = bucket or self.bucket, doors.signed
            content = signed.get(where, key, max_bytes, is_checked=is_checked) if signed else None
            if content is None:
                asked: dict[str, Any] = {"Bucket": where, "Key": key}
                read = partial(self._read, max_bytes=max_bytes, is_checked=is_checked)
                if signed:  # which was the first time
                    content = read(doors.client.get_object(**asked))
                else:
                    content = _asked_twice(doors.client, asked, read)
        if isinstance(content, bytes):
            return content
        raise ObjectTooLarge(f"{key}: {content.num_bytes} > {max_bytes} bytes")

    def _read(
        self, reply: Mapping[str, Any], *, max_bytes: int | None, is_checked: bool
    ) -> bytes | TooLarge:
        length = reply.get("ContentLength")
        if max_bytes is not None and length is not None and length > max_bytes:
            reply["Body"].close()
            return TooLarge(length)
        # One more than allowed shows that there are more, where no length was said.
        at_most = None if max_bytes is None else max_bytes + 1
        content = self._body_of(reply, statuses=(OK,), at_most=at_most)
        if max_bytes is not None and len(content) > max_bytes:
            return TooLarge(len(content))
        if is_checked:
            BodyChanged.raise_if_contradicted(content, reply["ResponseMetadata"]["HTTPHeaders"])
        return content

    def _body_of(
        self, reply: Mapping[str, Any], *, statuses: tuple[int, ...], at_most: int | None
    ) -> bytes:
        status = reply["ResponseMetadata"]["HTTPStatusCode"]
        length, seconds = reply.get("ContentLength"), self._timeout_seconds
        with reply["Body"] as raw:  # urllib3's: botocore's own waits for all that it is to read
            if status not in statuses:
                raise BrokenOff(f"the reply has status {status} and no object")
            NotOfAStore.raise_without_etag(reply["ResponseMetadata"]["HTTPHeaders"])
            return read_body(raw, length, seconds=seconds, at_most=at_most)

    def _head(self, key: str) -> Mapping[str, Any]:
        with self._opened(key, "head") as doors:
            head = doors.client.head_object(Bucket=self.bucket, Key=key)
            NotOfAStore.raise_without_etag(head["ResponseMetadata"]["HTTPHeaders"])
            return head

    def _holds(self, key: str, content: bytes) -> bool:
        """Whether the object has this content, as far as its head can tell."""
        try:
            head = self._head(key)
        except ObjectMissing:
            return False
        except StorageDenied:
            return False  # who may only write is told by the PUT whether that is granted
        if head.get("ContentLength") != len(content):
            return False
        md5 = md5_of(head["ResponseMetadata"]["HTTPHeaders"])
        return md5 in (None, md5_hex(content))

    @contextmanager
    def _opened(
        self, key: str, operation: Operation = "get", bucket: str | None = None
    ) -> Iterator[_Doors]:
        """The doors, while their errors become ours."""
        asked = Asked(operation, bucket or self.bucket, key)
        try:
            with self._doors.use() as doors:
                yield doors
        except VisionqError as exc:
            if isinstance(exc, StorageError) and exc.asked is None:
                exc.asked = asked
            raise
        except Exception as exc:
            error = _mapped(exc, asked)
            if error is None:
                raise
            error.asked = asked
            raise error from exc


def _mapped(exc: Exception, asked: Asked) -> StorageError | None:
    """What a library has raised, as one of ours; None of what is no error of store or network."""
    import_unforked("botocore.exceptions")
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(exc, BadBody):
        error = StorageUnavailable(f"object store: {asked.key!r}: {exc}")
        error.status = OK
        return error
    if isinstance(exc, ClientError):
        code = exc.response.get("Error", {}).get("Code", "")
        refusal = _of_reply(_status(exc), code, asked)
        # Not every store has a code for it, and the reply to a HEAD has none at all.
        if _status(exc) in (400, 401, 403) and _is_clock_off(exc):
            return _as_reply(WrongClock(), _status(exc), code)
        return refusal
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return StorageDenied(
            "no access key is set for the object store; set storage.access_key and "
            f"storage.secret_key ({_VARIABLES}), or run `visionq up` here"
        )
    if isinstance(exc, EndpointConnectionError):
        return StorageUnavailable(
            f"object store: {_said(exc).rstrip('.')}; "
            f"set storage.endpoint_url ({_VARIABLES}), or run `visionq up` here"
        )
    if isinstance(exc, ParamValidationError):  # before anything is sent: a bucket that can be none
        return BucketMissing(f"bucket {asked.bucket!r}: {_said(exc)}")
    broken = BotoCoreError | OSError | HTTPError | http.client.HTTPException | ResponseParserError
    if isinstance(exc, broken):
        return StorageUnavailable(f"object store: {_said(exc)}")
    return None


def _of_reply(status: int, code: str, asked: Asked) -> StorageError:
    said = f"{status} {code}" if code and code != str(status) else str(status)
    meant = meaning(status, code, asked)
    error: StorageError
    if meant is Meaning.WRONG_CLOCK:
        error = WrongClock()
    elif meant is Meaning.DENIED:
        error = StorageDenied(f"the object store refused access ({said}){_whom(code, asked)}")
    elif meant is Meaning.NO_BUCKET:
        error = BucketMissing(f"there is no bucket {asked.bucket!r}")
    elif meant is Meaning.MISSING:
        error = ObjectMissing(f"there is no object {asked.key!r}")
    else:
        of = f" for {asked.key!r}" if asked.key else ""
        error = StorageUnavailable(f"the object store answered {said}{of}")
    return _as_reply(error, status, code)


def _as_reply(error: StorageError, status: int, code: str) -> StorageError:
    error.status, error.code = status, code or None
    return error


def _whom(code: str, asked: Asked) -> str:
    """What the refusal may be about."""
    if is_of_credentials(code):
        return ": mend the access key, its secret, its token or the region"
    if asked.operation in ("get", "head") and asked.key:
        return (
            f" to {asked.key!r}: it may not be read, or it is not there "
            "and the bucket may not be listed (s3:ListBucket)"
        )
    if asked.operation == "list":
        return f" to a listing of {asked.key!r}: the bucket may not be listed (s3:ListBucket)"
    return f" to {asked.key!r}" if asked.key else ""


def _page(reply: Mapping[str, Any]) -> tuple[list[Listed], str | None]:
    """A listing's objects, and where the next page begins; None after the last one."""
    try:
        listed = [
            Listed(key=one["Key"], stored_at=one["LastModified"].timestamp())
            for one in reply.get("Contents", [])
        ]
        return listed, reply["NextContinuationToken"] if reply["IsTruncated"] else None
    except KeyError as exc:
        raise NotOfAStore(f"a listing of the object store lacks {exc}") from exc


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _asked_twice(
    client: S3Client, asked: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]
) -> T:
    """What `read` makes of the object, the second time if its body was bad."""
    try:
        return read(client.get_object(**asked))
    except BadBody:
        return read(client.get_object(**asked))


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


def split_s3_url(url: str) -> tuple[str, str]:
    """`s3://bucket/some/key` as (bucket, key). Raises `ValueError` when a part is missing.

    Cut by hand: in a key, `?` and `#` are letters like any other.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket or not key:
        raise ValueError(f"{url!r} is not s3://bucket/key")
    return bucket, key
