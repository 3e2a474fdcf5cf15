"""The look at the bucket: each operation by itself, and what its refusal means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.strict_store import strict_store
from tests.worker.test_service_start import refusal, settings_with
from visionq import StoreAddress
from visionq.local import LocalUrls
from visionq.objects import ObjectStore
from visionq_worker.bucket_checks import BucketLook, check_bucket
from visionq_worker.findings import Level, require

DENIED = (403, "AccessDenied")


def look(address: StoreAddress, **refuses: tuple[int, str]) -> BucketLook:
    assert address.endpoint_url is not None
    with strict_store(address.endpoint_url, refuses) as url:
        store = ObjectStore(replace(address, endpoint_url=url))
        try:
            return check_bucket(store)
        finally:
            store.close()


def lines(seen: BucketLook) -> dict[str, tuple[Level, str]]:
    """Those that are not ok."""
    return {one.name: (one.level, one.text) for one in seen.findings if one.level is not Level.OK}


def test_store_with_all_operations_is_ok(address: StoreAddress) -> None:
    seen = look(address)
    assert lines(seen) == {}
    assert seen.keeps_results


def test_store_that_overwrites_is_a_warning(address: StoreAddress) -> None:
    store = ObjectStore(address)
    seen = check_bucket(store)
    store.close()
    assert {name: level for name, (level, _) in lines(seen).items()} == {
        "bucket.conditional": Level.WARN
    }
    assert not seen.keeps_results


@pytest.mark.parametrize(
    "reply", [(501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest"), DENIED]
)
def test_store_that_knows_no_conditional_writes_is_a_warning(
    address: StoreAddress, reply: tuple[int, str]
) -> None:
    seen = look(address, conditional=reply)
    assert {name: level for name, (level, _) in lines(seen).items()} == {
        "bucket.conditional": Level.WARN
    }
    require(seen.findings)
    assert not seen.keeps_results


def test_conditional_write_that_gets_no_answer_is_no_warning(address: StoreAddress) -> None:
    [(name, (level, _))] = lines(look(address, conditional=(503, "SlowDown"))).items()
    assert (name, level) == ("bucket.conditional", Level.FAIL)


@pytest.mark.parametrize(
    ("method", "expected", "right"),
    [
        ("PUT", {"bucket.put": Level.FAIL}, "s3:PutObject"),
        ("GET", {"bucket.get": Level.FAIL, "bucket.missing": Level.FAIL}, "s3:GetObject"),
        ("DELETE", {"bucket.delete": Level.WARN}, "s3:DeleteObject"),
    ],
)
def test_operation_that_a_key_may_not_do_is_named(
    address: StoreAddress, method: str, expected: dict[str, Level], right: str
) -> None:
    found = lines(look(address, **{method: DENIED}))
    assert {name: level for name, (level, _) in found.items()} == expected
    assert right in next(text for _, text in found.values())


def test_key_that_may_write_and_not_delete_starts_a_worker(address: StoreAddress) -> None:
    """A worker deletes nothing but what it has tried the bucket with."""
    seen = look(address, DELETE=DENIED)
    require(seen.findings)
    assert seen.keeps_results


def test_key_that_may_not_write_starts_no_worker(urls: LocalUrls) -> None:
    with strict_store(urls.s3_endpoint, {"PUT": DENIED}) as url:
        text = refusal(settings_with(urls, storage={"endpoint_url": url}))
    assert text.startswith("bucket.put: the object store refused access (403 AccessDenied)")
    assert "s3:PutObject" in text


def test_wrong_clock_is_named(address: StoreAddress) -> None:
    skewed = (403, "RequestTimeTooSkewed")
    found = lines(look(address, PUT=skewed, GET=skewed, HEAD=skewed, DELETE=skewed))
    assert [*found] == ["bucket"]
    assert "this machine's clock is wrong: set it by NTP" in found["bucket"][1]


def test_key_that_may_not_list_the_bucket_is_told_what_it_needs(address: StoreAddress) -> None:
    (level, text) = lines(look(address, HEAD=DENIED))["bucket"]
    assert level is Level.FAIL
    assert "the access key needs s3:ListBucket" in text
