"""What each reply of an object store means, written down by hand from the stores' own lists."""

from __future__ import annotations

import pytest

from visionq.store_replies import Asked, Meaning, Operation, is_refused_condition, meaning

KEY = "inputs/a"

PASSING = [
    # S3
    (400, "BadDigest"),
    (400, "IncompleteBody"),
    (400, "InvalidArgument"),
    (400, "InvalidDigest"),
    (400, "KMS.ThrottlingException"),
    (400, "RequestTimeout"),
    (400, "ThrottlingException"),
    (400, "XAmzContentSHA256Mismatch"),
    (400, "EntityTooLarge"),
    (307, "TemporaryRedirect"),
    (404, ""),
    (404, "404"),
    (404, "NotFound"),
    (405, "MethodNotAllowed"),
    (408, ""),
    (409, "ConditionalRequestConflict"),
    (409, "OperationAborted"),
    (412, "PreconditionFailed"),
    (416, "InvalidRange"),
    (418, "WhatIsThis"),
    (425, ""),
    (429, ""),
    (429, "TooManyRequests"),
    (499, ""),
    (500, "InternalError"),
    (501, "NotImplemented"),
    (502, ""),
    (503, "ServiceUnavailable"),
    (503, "SlowDown"),
    (504, ""),
    (509, "BandwidthLimitExceeded"),
    (529, ""),
    (599, "XMinioServerNotInitialized"),
    # Others
    (403, "RequestThrottled"),
    (403, "SlowDown"),
    (429, "SlowDownRead"),
    (507, "XMinioStorageFull"),
    (503, "AccessDenied"),
    (500, "NoSuchKey"),
    (502, "NoSuchBucket"),
    (429, "ExpiredToken"),
    (200, ""),
    (204, ""),
    (302, ""),
    (0, ""),
]
DENIED = [
    (301, "PermanentRedirect"),
    (400, "AuthorizationHeaderMalformed"),
    (400, "ExpiredToken"),
    (400, "IllegalLocationConstraintException"),
    (400, "InvalidToken"),
    (400, "KMS.DisabledException"),
    (400, "KMS.NotFoundException"),
    (400, "TokenRefreshRequired"),
    (401, ""),
    (401, "Unauthorized"),
    (403, ""),
    (403, "403"),
    (403, "AccessDenied"),
    (403, "AccountProblem"),
    (403, "AllAccessDisabled"),
    (403, "InvalidAccessKeyId"),
    (403, "InvalidObjectState"),
    (403, "InvalidSecurity"),
    (403, "NotSignedUp"),
    (403, "QuotaExceeded"),
    (403, "SignatureDoesNotMatch"),
    (403, "UserSuspended"),
]


@pytest.mark.parametrize(("status", "code"), PASSING)
@pytest.mark.parametrize("operation", ["get", "put", "delete"])
def test_what_is_not_known_to_be_more_passes(status: int, code: str, operation: Operation) -> None:
    assert meaning(status, code, Asked(operation, "b", KEY)) is Meaning.PASSING


@pytest.mark.parametrize(("status", "code"), DENIED)
@pytest.mark.parametrize("operation", ["get", "put", "head", "delete", "bucket"])
def test_what_somebody_has_to_mend_is_denied(status: int, code: str, operation: Operation) -> None:
    assert meaning(status, code, Asked(operation, "b", KEY)) is Meaning.DENIED


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"])
@pytest.mark.parametrize("operation", ["get", "put", "head", "delete", "list", "bucket"])
def test_wrong_clock_differs_from_what_is_denied(
    status: int, code: str, operation: Operation
) -> None:
    assert meaning(status, code, Asked(operation, "b", KEY)) is Meaning.WRONG_CLOCK


@pytest.mark.parametrize(
    ("operation", "status", "code", "key", "meant"),
    [
        ("get", 404, "NoSuchKey", KEY, Meaning.MISSING),
        ("head", 404, "404", KEY, Meaning.MISSING),
        ("head", 404, "", KEY, Meaning.MISSING),
        ("get", 400, "KeyTooLongError", KEY, Meaning.MISSING),
        ("get", 400, "XMinioInvalidObjectName", KEY, Meaning.MISSING),
        ("get", 400, "InvalidArgument", "inputs//a", Meaning.MISSING),
        ("get", 400, "InvalidArgument", "inputs/../a", Meaning.MISSING),
        ("get", 400, "InvalidArgument", "inputs/a/", Meaning.PASSING),
        ("get", 500, "KeyTooLongError", KEY, Meaning.PASSING),
        ("get", 404, "NoSuchBucket", KEY, Meaning.NO_BUCKET),
        ("put", 404, "NoSuchBucket", KEY, Meaning.NO_BUCKET),
        ("put", 400, "InvalidBucketName", KEY, Meaning.NO_BUCKET),
        ("bucket", 404, "404", "", Meaning.NO_BUCKET),
        ("list", 404, "NoSuchBucket", "results/", Meaning.NO_BUCKET),
        ("list", 404, "404", "results/", Meaning.PASSING),
        ("list", 404, "", "results/", Meaning.PASSING),
    ],
)
def test_what_is_missing(
    operation: Operation, status: int, code: str, key: str, meant: Meaning
) -> None:
    assert meaning(status, code, Asked(operation, "b", key)) is meant


@pytest.mark.parametrize(
    ("status", "code", "is_refused"),
    [
        (501, "NotImplemented", True),
        (400, "InvalidArgument", True),
        (400, "InvalidRequest", True),
        (400, "BadDigest", False),
        (400, "RequestTimeout", False),
        (409, "ConditionalRequestConflict", False),
        (429, "SlowDown", False),
        (500, "InternalError", False),
        (503, "SlowDown", False),
        (None, None, False),
    ],
)
def test_condition_of_a_put_that_a_store_may_not_know(
    status: int | None, code: str | None, is_refused: bool
) -> None:
    assert is_refused_condition(status, code) is is_refused
