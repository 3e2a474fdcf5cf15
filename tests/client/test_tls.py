"""Redis behind TLS: a private authority, a certificate of the client's own, and all that fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tests.client.hand_worker import HandWorker
from tests.support.tls import Papers, TlsProxy, papers
from visionq import (
    AsyncClient,
    BrokerAddress,
    BrokerUnavailable,
    Client,
    SettingsError,
    State,
    StoreAddress,
    Submission,
)
from visionq.broker import Publisher
from visionq.connections import connect
from visionq.contract import ImageRef, Task
from visionq.dead import DeadLetters
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.settings import load_settings

SECONDS = 10.0
PROMISED_SECONDS = 5.0
OTHER_NAME = "redis.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


@pytest.fixture(scope="module")
def ours(authority: trustme.CA, folder: Path) -> Papers:
    return papers(authority, folder)


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Papers:
    return papers(trustme.CA(), folder, "foreign")


@pytest.fixture(scope="module")
def proxied(urls: LocalUrls, authority: trustme.CA) -> Iterator[Callable[..., str]]:
    """A URL of the test's Valkey behind TLS; proxies of the same sort are made once."""
    parts = urlsplit(urls.broker_url)
    made: dict[str, TlsProxy] = {}
    with ExitStack() as stack:

        def url(*, host: str = "localhost", **how: Any) -> str:
            name = repr(how)
            if name not in made:
                proxy = TlsProxy(parts.port or 0, authority, **how)
                made[name] = stack.enter_context(proxy)
            return f"rediss://:{parts.password}@{host}:{made[name].port}/0"

        yield url


def reached(url: str, one: Papers) -> BrokerAddress:
    return BrokerAddress(url, tls_ca_file=one.ca, tls_cert_file=one.cert, tls_key_file=one.key)


@pytest.fixture
def broker(proxied: Callable[..., str], ours: Papers) -> BrokerAddress:
    return reached(proxied(), ours)


def test_all_calls_of_a_client_pass_through_tls(
    broker: BrokerAddress, address: StoreAddress, namespace: str, worker: HandWorker, key: str
) -> None:
    with Client(broker, address, namespace=namespace) as client:
        task = client.ocr(key, idempotency_key="tls")
        many = client.submit_many([Submission("ocr", key), Submission("describe", key)])
        assert [each.state for each in client.status_many([each.id for each in many])] == [
            State.PENDING
        ] * 2
        assert many[1].cancel() is State.REVOKED
        assert len(worker.message_ids()) == 3
        worker.succeed(task.id)
        assert task.wait(SECONDS).state is State.SUCCESS
        assert task.result(SECONDS).text == "a hand-made answer"
        assert client.recent()


def test_asyncio_client_waits_through_tls(
    broker: BrokerAddress, address: StoreAddress, namespace: str, worker: HandWorker, key: str
) -> None:
    async def wait() -> State:
        async with AsyncClient(broker, address, namespace=namespace) as client:
            task = await client.ocr(key)
            waiting = asyncio.create_task(task.wait(SECONDS))
            while not worker.raw.pubsub_numsub(worker.names.events(task.id))[0][1]:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(worker.succeed, task.id)
            return (await waiting).state

    assert asyncio.run(wait()) is State.SUCCESS


def test_settings_say_it_for_clients_and_dead_letters(
    proxied: Callable[..., str], ours: Papers, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONQ_BROKER__URL", proxied())
    monkeypatch.setenv("VISIONQ_BROKER__NAMESPACE", namespace)
    monkeypatch.setenv("VISIONQ_BROKER__TLS_CA_FILE", str(ours.ca))
    monkeypatch.setenv("VISIONQ_BROKER__TLS_CERT_FILE", str(ours.cert))
    monkeypatch.setenv("VISIONQ_BROKER__TLS_KEY_FILE", str(ours.key))
    settings = load_settings()
    with Client.from_settings(settings) as client:
        assert client.recent() == []
    with DeadLetters.from_settings(settings) as letters:
        assert letters.list() == ()


def test_options_of_the_url_say_the_same(proxied: Callable[..., str], ours: Papers) -> None:
    url = f"{proxied()}?ssl_ca_certs={ours.ca}&ssl_certfile={ours.cert}&ssl_keyfile={ours.key}"
    with Client(url) as client:
        assert (
            client.status("00000000-0000-4000-8000-000000000000", look_in_store=False).state
            is State.UNKNOWN
        )


def test_certificate_and_key_may_be_one_file(
    proxied: Callable[..., str], ours: Papers, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(ours.cert.read_bytes() + ours.key.read_bytes())
    with Client(BrokerAddress(proxied(), tls_ca_file=ours.ca, tls_cert_file=both)) as client:
        assert client.recent() == []


def test_renewed_certificate_is_used_without_a_restart(
    proxied: Callable[..., str], ours: Papers, foreign: Papers, tmp_path: Path
) -> None:
    held = Papers(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    for kept, source in ((held.ca, ours.ca), (held.cert, foreign.cert), (held.key, foreign.key)):
        kept.write_bytes(source.read_bytes())
    with Client(reached(proxied(), held)) as client:
        with pytest.raises(BrokerUnavailable):
            client.recent()
        held.cert.write_bytes(ours.cert.read_bytes())
        held.key.write_bytes(ours.key.read_bytes())
        assert client.recent() == []


def test_file_that_has_gone_since_the_start_is_named(
    proxied: Callable[..., str], ours: Papers, tmp_path: Path
) -> None:
    kept = tmp_path / "ca.pem"
    kept.write_bytes(ours.ca.read_bytes())
    held = reached(proxied(), Papers(kept, ours.cert, ours.key))

    async def status() -> None:
        async with AsyncClient(held) as client:
            kept.unlink()
            await client.recent()

    with Client(held) as client:
        kept.unlink()
        with pytest.raises(BrokerUnavailable, match=r"tls_ca_file cannot be read: .*ca\.pem"):
            client.recent()
        kept.write_bytes(ours.ca.read_bytes())
        assert client.recent() == []
    with pytest.raises(BrokerUnavailable, match="see that the file is whole and may be read"):
        asyncio.run(status())


ANY_VERSION = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
TRUST = "set broker.tls_ca_file"
SHOW = "set broker.tls_cert_file and broker.tls_key_file"


def refused(broker: BrokerAddress, advice: str) -> None:
    """By each door, in time, with what to do."""
    task = Task(
        id="0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11", kind="ocr", images=(ImageRef(ref="inputs/a"),)
    )

    async def status() -> None:
        async with AsyncClient(broker) as client:
            await client.status(task.id)

    with Client(broker) as client:
        for call in (
            lambda: client.ocr("inputs/a"),
            lambda: client.wait(task.id, 0.3),
            lambda: asyncio.run(status()),
            lambda: Publisher(broker, Names(), timeout_seconds=1.0).publish(task),
        ):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable) as caught:
                call()
            assert advice in str(caught.value)
            assert time.monotonic() - began < PROMISED_SECONDS


@pytest.mark.parametrize("newest", ANY_VERSION, ids=lambda version: version.name)
def test_without_a_certificate_of_its_own_a_client_is_refused(
    proxied: Callable[..., str], ours: Papers, newest: ssl.TLSVersion
) -> None:
    refused(BrokerAddress(proxied(newest=newest), tls_ca_file=ours.ca), SHOW)


@pytest.mark.parametrize("newest", ANY_VERSION, ids=lambda version: version.name)
def test_certificate_of_another_authority_is_refused_by_redis(
    proxied: Callable[..., str], ours: Papers, foreign: Papers, newest: ssl.TLSVersion
) -> None:
    mixed = Papers(ours.ca, foreign.cert, foreign.key)
    refused(reached(proxied(newest=newest), mixed), SHOW)


def test_redis_of_another_authority_is_not_trusted(
    proxied: Callable[..., str], ours: Papers, foreign: Papers
) -> None:
    refused(reached(proxied(), Papers(foreign.ca, ours.cert, ours.key)), TRUST)


def test_redis_of_a_private_authority_is_not_trusted_by_itself(proxied: Callable[..., str]) -> None:
    refused(BrokerAddress(proxied(wants_certificate=False)), TRUST)


def test_system_s_authorities_are_not_trusted_beside_the_one_that_is_named(
    proxied: Callable[..., str],
    ours: Papers,
    foreign: Papers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = proxied(wants_certificate=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))  # for OpenSSL, the system's
    with Client(url) as client:
        assert client.recent() == []
    refused(BrokerAddress(url, tls_ca_file=foreign.ca), TRUST)


def test_name_in_the_certificate_has_to_be_the_host_s(
    proxied: Callable[..., str], ours: Papers
) -> None:
    refused(reached(proxied(name=OTHER_NAME), ours), "let broker.url name a host")
    refused(reached(proxied(host="127.0.0.1"), ours), "let broker.url name a host")


def test_certificate_that_has_expired_is_refused(proxied: Callable[..., str], ours: Papers) -> None:
    refused(reached(proxied(is_expired=True), ours), "renew the certificate")


def test_redis_without_tls_is_named(urls: LocalUrls) -> None:
    port = urlsplit(urls.broker_url).port
    with (
        Client(f"rediss://localhost:{port}/0", timeout_seconds=0.5) as client,
        pytest.raises(BrokerUnavailable, match=r"if no TLS is spoken there, begin broker.url with"),
    ):
        client.ocr("inputs/a")


def test_unchecked_certificates_are_asked_for_in_the_url(proxied: Callable[..., str]) -> None:
    with Client(f"{proxied(wants_certificate=False)}?ssl_cert_reqs=none") as client:
        assert client.recent() == []


@pytest.fixture(scope="module")
def files(folder: Path, ours: Papers, foreign: Papers) -> dict[str, str]:
    """Paths by what is in them."""
    made = {
        "missing": folder / "missing.pem",
        "folder": folder,
        "text": folder / "text.pem",
        "empty": folder / "empty.pem",
        "spoilt": folder / "spoilt.pem",
        "encrypted": folder / "encrypted.key",
        "spoilt key": folder / "spoilt.key",
    }
    made["text"].write_text("hello")
    made["empty"].write_text("")
    made["spoilt"].write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    made["encrypted"].write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
    made["spoilt key"].write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    made |= {"ca": ours.ca, "cert": ours.cert, "key": ours.key, "other key": foreign.key}
    return {name: str(path) for name, path in made.items()}


WRONG_FILES: dict[str, tuple[tuple[str | None, str | None, str | None], str]] = {
    "no such authority": (("missing", None, None), "broker.tls_ca_file cannot be read"),
    "authority is a folder": (("folder", None, None), "broker.tls_ca_file cannot be read"),
    "authority is a text": (("text", None, None), "broker.tls_ca_file holds no certificate"),
    "authority is empty": (("empty", None, None), "broker.tls_ca_file holds no certificate"),
    "authority is a key": (("key", None, None), "broker.tls_ca_file holds no certificate"),
    "authority is spoilt": (("spoilt", None, None), "broker.tls_ca_file holds no certificate"),
    "no such certificate": (("ca", "missing", "key"), "broker.tls_cert_file cannot be read"),
    "certificate is a text": (("ca", "text", "key"), "broker.tls_cert_file holds no certificate"),
    "certificate is spoilt": (("ca", "spoilt", "key"), "broker.tls_cert_file and broker.tls_key_"),
    "no such key": (("ca", "cert", "missing"), "broker.tls_key_file cannot be read"),
    "key is a certificate": (("ca", "cert", "cert"), "broker.tls_key_file holds no private key"),
    "key is spoilt": (("ca", "cert", "spoilt key"), "broker.tls_cert_file and broker.tls_key_"),
    "key is encrypted": (("ca", "cert", "encrypted"), "broker.tls_key_file is encrypted"),
    "another's key": (("ca", "cert", "other key"), "broker.tls_key_file does not belong to"),
    "no key": (("ca", "cert", None), "without broker.tls_key_file"),
    "key alone": (("ca", None, "key"), "set both"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_file_that_cannot_be_used_is_named_before_anything_is_connected(
    files: dict[str, str], wrong: str
) -> None:
    names, message = WRONG_FILES[wrong]
    ca, cert, key = (None if name is None else files[name] for name in names)
    broker = BrokerAddress(
        "rediss://127.0.0.1:1/0", tls_ca_file=ca, tls_cert_file=cert, tls_key_file=key
    )
    for make in (
        lambda: Client(broker),
        lambda: AsyncClient(broker),
        lambda: connect(broker, timeout_seconds=1),
    ):
        with pytest.raises(SettingsError, match=message):
            make()


def test_files_without_tls_or_beside_the_url_s_options_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="tls_ca_file needs a broker"):
        BrokerAddress("redis://127.0.0.1:1/0", tls_ca_file=files["ca"])
    with pytest.raises(SettingsError, match="tls_ca_file or ssl_ca_certs"):
        BrokerAddress("rediss://127.0.0.1:1/0?ssl_ca_certs=/a", tls_ca_file=files["ca"])
    with pytest.raises(SettingsError, match="tls_key_file must be the path of a file"):
        BrokerAddress("rediss://127.0.0.1:1/0", tls_key_file=5)  # type: ignore[arg-type]
