"""What errors, logs and checks say of URLs: never a password, never what signs them."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import closing

import pytest

from visionq import Client, StoreAddress
from visionq.broker import _mapped_errors
from visionq.connections import connect, explain
from visionq.contract import FailureCode
from visionq.errors import (
    BrokerUnavailable,
    InvalidImage,
    SettingsError,
    StorageError,
    VisionqError,
)
from visionq.objects import ObjectStore
from visionq.redaction import RedactingFormatter, redacted
from visionq_worker.errors import Postponed, StartError, TaskError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:s3cr3t@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:s3cr3t@host/0 is away", "rediss://***@host/0 is away"),
        ("redis://user:s3@cr3t:s3cr3t@host", "redis://***@host"),
        ("redis://:a/s3cr3t@host/0", "redis://***@host/0"),
        ("redis://:a?s3cr3t@host/0", "redis://***@host/0"),
        ("redis://:a#s3cr3t@host/0", "redis://***@host/0"),
        ("redis://s3cr3t@host", "redis://***@host"),
        ("redis://host:6379/0?password=s3cr3t&db=2", "redis://host:6379/0?***"),
        ('endpoint URL: "http://u:s3cr3t@[::1]:9/b/k"', 'endpoint URL: "http://***@[::1]:9/b/k"'),
        ("Invalid endpoint: user:s3cr3t@host", "Invalid endpoint: ***@host"),
        ("as int: ':s3cr3t@host'", "as int: '***@host'"),
        ("(https://h/k?X-Amz-Signature=s3cr3t&b=1 is gone)", "(https://h/k?*** is gone)"),
        ("https://h/k?AWSAccessKeyId=a&Signature=s3cr3t#page=3", "https://h/k?***"),
        ("exceeded with url: /b/k?sig=s3cr3t (Caused)", "exceeded with url: /b/k?*** (Caused)"),
        ("cannot read HTTPS:/h/k?token=s3cr3t: gone", "cannot read HTTPS:/h/k?*** gone"),
        ("url='https://h/k?sig=s3cr3t', more", "url='https://h/k?***', more"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert SECRET not in redacted(redacted(text))


@pytest.mark.parametrize(
    "text",
    [
        "https://h/a@b.png",
        "url is not redis://user:password@host:port/db",
        "https://h:9000/a@b.png",
        "http://[::1]:80/a@b",
        "s3://bucket/a:b@c.png",
        "report.pdf#page=3",
        "What? At 12@3 o'clock: why?",
        "is 5 s a:b enough?",
        "inputs/a@2x.png",
        "Error 111 connecting to 127.0.0.1:6379. Connection refused.",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("piece", ["a:", "/", ":", "-", "?", "@", "a-", "/?", "a:@", "a://", "x"])
@pytest.mark.parametrize("end", ["", "/ ?", " @h"])
def test_time_grows_with_the_length_of_a_text_and_not_faster(piece: str, end: str) -> None:
    text = piece * (128 * 1024 // len(piece)) + end
    begun = time.process_time()
    redacted(text)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "text",
    [
        "there is no object 'scans/what?.jpg'",
        "there is no object 's3://scans/a:b@c/what?.jpg'",
        "cannot read /tmp/q?1.jpg: No such file or directory",
        "there is no kind 'x:y@z'",
    ],
)
def test_a_message_of_ours_shows_keys_and_names_of_files(text: str) -> None:
    assert str(VisionqError(text)) == text
    assert TaskError(FailureCode.INPUT_MISSING, text).message == text


def test_what_a_library_says_shows_no_piece_of_a_url() -> None:
    said = f"Max retries exceeded with url: /b/k?sig={SECRET} of user:{SECRET}@host"
    assert SECRET not in explain(ConnectionError(said))
    with pytest.raises(StorageError) as stored, ObjectStore(StoreAddress(bucket="b"))._opened("k"):
        raise OSError(said)
    with pytest.raises(BrokerUnavailable) as published, _mapped_errors():
        raise OSError(said)
    assert SECRET not in str(stored.value) + str(published.value)


@pytest.mark.parametrize("letter", "'\"<>` ")
def test_a_password_that_could_not_be_hidden_is_refused(letter: str) -> None:
    url = f"redis://:a{letter}{SECRET}@127.0.0.1:1/0"
    with pytest.raises(SettingsError, match="percent-encoded") as caught:
        connect(url, timeout_seconds=1)
    assert SECRET not in shown(caught)
    with pytest.raises(SettingsError, match="percent-encoded") as caught:
        StoreAddress(bucket="b", endpoint_url=f"http://u:a{letter}{SECRET}@127.0.0.1:1")
    assert SECRET not in shown(caught)


def test_errors_of_both_sides_are_redacted() -> None:
    text = f"redis://:{SECRET}@host and https://h/k?sig={SECRET}"
    for error in (
        VisionqError(text),
        InvalidImage(text),
        StartError(text),
        Postponed(text),
        TaskError(FailureCode.INTERNAL, text),
    ):
        assert SECRET not in str(error) + repr(error)
    assert SECRET not in TaskError(FailureCode.INTERNAL, text).as_failure().message
    assert SECRET not in repr(StoreAddress(bucket="b", endpoint_url=f"http://u:{SECRET}@h"))


def shown(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """All that a traceback prints, causes included."""
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "endpoint", [f"http://user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@127.0.0.1:1"]
)
def test_endpoint_with_a_password_is_in_no_traceback(endpoint: str) -> None:
    def use() -> None:
        address = StoreAddress(bucket="b", endpoint_url=endpoint, access_key="k", secret_key="x")
        with closing(ObjectStore(address, timeout_seconds=1)) as store:
            store.check_bucket()

    with pytest.raises((StorageError, SettingsError)) as caught:
        use()
    assert SECRET not in shown(caught)


@pytest.mark.parametrize(
    "url",
    [f"redis://:{SECRET}@host:{SECRET}/0", f"redis://:a@host:6379:{SECRET}", f"http://{SECRET}"],
)
def test_broker_url_that_is_none_is_in_no_traceback(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(url, timeout_seconds=1)
    assert SECRET not in shown(caught)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VISIONQ_BROKER__URL", f"http://:{SECRET}@host"),
        ("VISIONQ_BROKER__URL", f"redis://:a/{SECRET}@host:x"),
        ("VISIONQ_BROKER__URL", f"redis://:{SECRET}@127.0.0.1:1/0"),
        ("VISIONQ_BROKER__URL", f"redis://127.0.0.1:1/0?password={SECRET}"),
        ("VISIONQ_STORAGE__ENDPOINT_URL", f"ftp://user:{SECRET}@host"),
        ("VISIONQ_STORAGE__ENDPOINT_URL", f"user:{SECRET}@host"),
    ],
)
def test_setting_with_a_password_is_in_no_traceback(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(VisionqError) as caught, Client.from_settings() as client:
        client.ocr(b"an image")
    assert SECRET not in shown(caught)


def test_presigned_url_that_was_taken_for_a_path_is_in_no_traceback(client: Client) -> None:
    url = f"HTTPS://h/k.png?X-Amz-Signature={SECRET}"
    for call in (client.ocr, lambda url: client.estimate("ocr", url)):
        with pytest.raises(VisionqError) as caught:
            call(url)
        assert SECRET not in shown(caught)


def test_log_lines_of_the_worker_are_redacted_with_their_tracebacks() -> None:
    try:
        raise OSError(f"no route to https://h/k?sig={SECRET}")
    except OSError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, f"redis://:{SECRET}@h is away: %s", ("a",), None
        )
        record.exc_info = (type(error), error, error.__traceback__)
    text = RedactingFormatter(logging.Formatter("%(message)s")).format(record)
    assert "no route to https://h/k?***" in text
    assert SECRET not in text
