"""What a reply of the object store means: the one table for every use of the store.

    what the store answers                                   meaning     raised
    nothing, half a reply, 408, 409, 429, 5xx, anything odd  PASSING     `StorageUnavailable`
    404 NoSuchKey, a HEAD's 404, a key it cannot have        MISSING     `ObjectMissing`
    404 NoSuchBucket, a HEAD of the bucket's 404             NO_BUCKET   `BucketMissing`
    401, 403, codes about keys, tokens, KMS, region          DENIED      `StorageDenied`
    codes about the time of the request                      WRONG_CLOCK `WrongClock`

What passes is tried again, what is denied or has no bucket waits for whoever runs the service, and
only what is missing is the fault of who asked for it. What is not known passes: taking an outage
for a missing object loses a task, the reverse costs a retry. So a GET's 404 without its code passes
as well: it is what a load balancer answers whose store is away.

Codes: S3's list of errors, and what MinIO, Ceph, SeaweedFS, R2 and Google's XML interface add.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from visionq.names import INPUT_FOLDER, RESULT_FOLDER

Operation = Literal["get", "put", "head", "delete", "list", "bucket"]


class Meaning(StrEnum):
    PASSING = "passing"
    MISSING = "missing"
    NO_BUCKET = "no_bucket"
    DENIED = "denied"
    WRONG_CLOCK = "wrong_clock"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of the store. `key` is empty where the bucket itself was meant."""

    operation: Operation
    bucket: str
    key: str

    @property
    def folder(self) -> str:
        """Of ours, in which an object stands for this one."""
        first = self.key.partition("/")[0]
        return first if first in (INPUT_FOLDER, RESULT_FOLDER) else INPUT_FOLDER


_OF_CREDENTIALS = frozenset(
    {
        "AccountProblem",
        "AuthFailure",
        "AuthorizationHeaderMalformed",  # signed for another region
        "AuthorizationQueryParametersError",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "MissingSecurityHeader",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UserSuspended",
    }
)
"""Who asks is refused, or when, whatever is asked for."""

_OF_THE_CLOCK = frozenset({"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"})
"""The time that a request was signed with is not the store's."""

_OF_WHAT_IS_ASKED = frozenset(
    {
        "AccessDenied",
        "AccessForbidden",
        "AllAccessDisabled",
        "Forbidden",
        "IllegalLocationConstraintException",
        "InvalidObjectState",  # archived
        "InvalidRegionName",
        "PermanentRedirect",
        "Unauthorized",
        "UnauthorizedAccess",
    }
)
_PASSING_WITH_403 = frozenset({"RequestThrottled", "SlowDown", "TooManyRequests"})
_BAD_KEYS = frozenset({"InvalidObjectName", "InvalidURI", "KeyTooLongError"})
_PASSING_400 = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InvalidDigest",
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_PASSING_STATUSES = frozenset({307, 408, 409, 425, 429})
NOT_IMPLEMENTED = 501


def meaning(status: int, code: str, asked: Asked) -> Meaning:
    """Of a reply that is no success. `code` is empty, or the status again, where it had no body."""
    if status >= 500 or status in _PASSING_STATUSES or _is_throttled(code):
        return Meaning.PASSING
    if code in _OF_THE_CLOCK:
        return Meaning.WRONG_CLOCK
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return Meaning.NO_BUCKET
    if is_of_credentials(code) or code in _OF_WHAT_IS_ASKED or code.startswith("KMS."):
        return Meaning.DENIED
    if status == 404:
        return _of_404(code, asked)
    if status in (301, 308, 401, 403):
        return Meaning.DENIED
    if _is_bad_key(code, asked.key):
        return Meaning.MISSING
    return Meaning.PASSING


def is_of_credentials(code: str | None) -> bool:
    """Whether nothing else would be granted either, in this bucket or another."""
    return code in _OF_CREDENTIALS or code in _OF_THE_CLOCK


def is_refused_condition(status: int | None, code: str | None) -> bool:
    """Whether a PUT may have been refused for its `If-None-Match`, which not every store knows."""
    if status is None or code in _PASSING_400 or status in _PASSING_STATUSES:
        return False
    return status == NOT_IMPLEMENTED or 400 <= status < 500


def _of_404(code: str, asked: Asked) -> Meaning:
    if asked.operation == "bucket":
        return Meaning.NO_BUCKET  # it is asked for by HEAD
    is_said = code in ("NoSuchKey", "NoSuchVersion")
    # The reply to a HEAD has no body that could say more.
    return Meaning.MISSING if is_said or asked.operation == "head" else Meaning.PASSING


def _is_throttled(code: str) -> bool:
    return code in _PASSING_WITH_403 or "Throttl" in code


def _is_bad_key(code: str, key: str) -> bool:
    """Whether no object of this store can have the key."""
    if code in _BAD_KEYS or code.startswith("XMinioInvalidObjectName"):
        return True
    # SeaweedFS's word for what a file system would resolve; others use it for much else.
    has_odd_part = any(part in ("", ".", "..") for part in key.removesuffix("/").split("/"))
    return code == "InvalidArgument" and has_odd_part
