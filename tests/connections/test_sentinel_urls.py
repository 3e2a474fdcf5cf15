"""What a URL of sentinels may say, and what is said of one that is wrong: nothing secret."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from visionq.broker_urls import BrokerAddress
from visionq.errors import SettingsError
from visionq.redaction import redacted
from visionq.sentinel_urls import SentinelUrl, read_sentinel_url
from visionq.settings import load_settings

SECRET = "s3cr3t"


def test_all_that_it_may_say() -> None:
    url = "sentinels://app:s3cr3t@one:26380,[::1]:26381,three/orders.v2-a_b/5?ssl_cert_reqs=none"
    assert read_sentinel_url(url) == SentinelUrl(
        sentinels=(("one", 26380), ("::1", 26381), ("three", 26379)),
        name="orders.v2-a_b",
        db=5,
        user="app:s3cr3t",
        query="ssl_cert_reqs=none",
        has_tls=True,
    )


def test_the_least_that_it_says() -> None:
    found = read_sentinel_url("sentinel://one/mymaster")
    assert (found.sentinels, found.name, found.db) == ((("one", 26379),), "mymaster", 0)
    assert not found.has_tls


@pytest.mark.parametrize(
    ("url", "server_url"),
    [
        ("redis://:s3cr3t@h:6380/2", "redis://:s3cr3t@h:6380/2"),
        ("sentinel://a,b/main", "redis://main.sentinel.invalid:6379/0"),
        ("sentinel://u:s%40t@a,b/main/3", "redis://u:s%40t@main.sentinel.invalid:6379/3"),
        (
            "sentinels://:s3cr3t@a/main?ssl_ca_certs=/ca.pem",
            "rediss://:s3cr3t@main.sentinel.invalid:6379/0?ssl_ca_certs=/ca.pem",
        ),
    ],
)
def test_celery_is_given_a_url_of_one_server(url: str, server_url: str) -> None:
    """Whose host is nobody's: our connections ask the sentinels, and all others must fail."""
    assert BrokerAddress(url).server_url == server_url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sentinel://:s3cr3t@/main", "each sentinel is host or host:port"),
        ("sentinel://:s3cr3t@a,,b/main", "each sentinel is host or host:port"),
        ("sentinel://:s3cr3t@a;b:c/main", "each sentinel is host or host:port"),
        ("sentinel://:s3cr3t@::1/main", "an IPv6 address in [ ]"),
        ("sentinel://:s3cr3t@a:0/main", "there can be no such host or port"),
        ("sentinel://:s3cr3t@a:65536/main", "there can be no such host or port"),
        ("sentinel://:s3cr3t@a..b/main", "there can be no such host or port"),
        ("sentinel://:s3cr3t@a", "behind the hosts comes the name"),
        ("sentinel://:s3cr3t@a/", "behind the hosts comes the name"),
        ("sentinel://:s3cr3t@a/my%20name", "behind the hosts comes the name"),
        ("sentinel://:s3cr3t@a/main/x", "behind the name comes the number of a database"),
        ("sentinel://:s3cr3t@a/main/0/1", "behind the name comes the number of a database"),
        ("sentinel://:s3cr3t#x@a/main", "a # in the password is written %23"),
        ("sentinel://:s3cr3t/x@a/main", "a / or ? in the password is written %2F or %3F"),
        ("sentinel://:s3cr3t?x@a/main", "a / or ? in the password is written %2F or %3F"),
        ("sentinel://:s3cr3t@x@a/main", "an @ in the password is written %40"),
        ("sentinel://:s3cr3t@a/main?ssl_cert_reqs=none", "behind a ? it takes only"),
        ("sentinels://:s3cr3t@a/main?ssl_cert_reqs=some", "ssl_cert_reqs must be"),
        ("sentinel://:s3cr3t@a/main?password=s3cr3t", "user and password stand before the host"),
    ],
)
def test_each_mistake_has_its_message(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        BrokerAddress(url)
    said = str(caught.value)
    assert said.startswith("url is not sentinel://user:password@host:port,host:port/name/db: ")
    assert problem in said
    assert SECRET not in said
    assert redacted(said) == said


def test_a_url_with_several_hosts_is_redacted() -> None:
    text = "at sentinel://app:s3cr3t@one:26379,[::1]:2,three/main/0 and more"
    assert redacted(text) == "at sentinel://***@one:26379,[::1]:2,three/main/0 and more"
    address = BrokerAddress(
        "sentinel://app:s3cr3t@one,two/main", sentinel_user="u", sentinel_password=SECRET
    )
    assert SECRET not in repr(address)


def test_the_sentinels_own_password_is_a_setting() -> None:
    settings = load_settings(
        broker={"url": "sentinel://one/main", "sentinel_user": "u", "sentinel_password": SECRET}
    )
    assert settings.broker.sentinel_password == SecretStr(SECRET)
    assert settings.broker.address().sentinel_password == SECRET
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [("redis://one", None, SECRET), ("sentinel://one/main", "u", None)],
)
def test_a_password_without_sentinels_is_a_mistake(
    url: str, user: str | None, password: str | None
) -> None:
    with pytest.raises(SettingsError, match="sentinel_password"):
        BrokerAddress(url, sentinel_user=user, sentinel_password=password)
