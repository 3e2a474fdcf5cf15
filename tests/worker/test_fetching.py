"""Images behind URLs: what is fetched, and from where it is not.

The server is a real one with a certificate of its own authority; names are resolved by the test.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest
import trustme

from tests.faults.addresses import HOSTS, Listener
from visionq.contract import FailureCode
from visionq_worker.addresses import is_public
from visionq_worker.errors import TaskError
from visionq_worker.fetching import Fetcher, UrlRules, resolve

HERE = "127.0.0.1"
NAME = "pictures.example"
PUBLIC = "93.184.215.14"
CONTENT = bytes(range(256)) * 1000

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """An https server on loopback. `answer` writes the reply; `seen` are the requests."""

    def __init__(self, authority: trustme.CA) -> None:
        site = self
        self.answer: Answer = reply(200, CONTENT)
        self.seen: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append((self.headers["Host"], self.path))
                site.answer(self)

            def log_message(self, *_: Any) -> None: ...

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(NAME).configure_cert(context)
        self.server = ThreadingHTTPServer((HERE, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str = "/a.png", name: str = NAME) -> str:
        return f"https://{name}:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(status: int, content: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(location: str) -> Answer:
    return reply(302, Location=location)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def site(authority: trustme.CA) -> Iterator[Site]:
    with closing(Site(authority)) as running:
        yield running


class Resolver:
    """Answers in turn; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


FetcherFor = Callable[..., Fetcher]


@pytest.fixture
def fetcher(site: Site, authority: trustme.CA) -> FetcherFor:
    """One that may connect to this machine, and takes the site for all names."""

    def make(
        resolver: Callable[[str, int], Sequence[str]] | None = None,
        is_allowed: Callable[[str], bool] = lambda address: address == HERE,
        **rules: Any,
    ) -> Fetcher:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        given: dict[str, Any] = {
            "ports": (site.port,),
            "max_bytes": len(CONTENT),
            "total_seconds": 3.0,
        } | rules
        return Fetcher(
            UrlRules(**given),
            resolve=resolver or Resolver([HERE]),
            is_allowed=is_allowed,
            context=context,
        )

    return make


@contextmanager
def fails(code: FailureCode, message: str = ".") -> Iterator[None]:
    with pytest.raises(TaskError, match=message) as caught:
        yield
    assert caught.value.code is code


def test_bytes_come_as_they_are(site: Site, fetcher: FetcherFor) -> None:
    resolver = Resolver([HERE])
    assert fetcher(resolver).fetch(site.url("/a.png?size=1#there")) == CONTENT
    assert resolver.asked == [NAME], "the name is resolved once"
    assert site.seen == [(f"{NAME}:{site.port}", "/a.png?size=1")]


def test_second_address_is_tried_when_the_first_one_is_closed(
    site: Site, fetcher: FetcherFor
) -> None:
    with Listener() as closed:
        port = closed.port
    del port
    found = fetcher(Resolver(["127.0.0.9", HERE]), lambda address: address.startswith("127."))
    assert found.fetch(site.url()) == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410, 204])
def test_status_that_will_not_change_ends_it(site: Site, fetcher: FetcherFor, status: int) -> None:
    site.answer = reply(status)
    with fails(FailureCode.INPUT_MISSING, f"status {status}"):
        fetcher().fetch(site.url())
    assert len(site.seen) == 1


def test_status_that_passes_is_waited_for(site: Site, fetcher: FetcherFor) -> None:
    def recover(request: BaseHTTPRequestHandler) -> None:
        reply(503 if len(site.seen) < 3 else 200, CONTENT)(request)

    site.answer = recover
    assert fetcher().fetch(site.url()) == CONTENT


def test_site_that_stays_away_is_worth_another_task(site: Site, fetcher: FetcherFor) -> None:
    site.answer = reply(503)
    with pytest.raises(TaskError) as caught:
        fetcher().fetch(site.url())
    assert (caught.value.code, caught.value.retryable) == (FailureCode.INPUT_UNAVAILABLE, True)
    assert len(site.seen) == 3


def test_reading_stops_at_the_limit(site: Site, fetcher: FetcherFor) -> None:
    """Whatever the header says: bytes are counted as they come."""
    num_sent = 0

    def flood(request: BaseHTTPRequestHandler) -> None:
        nonlocal num_sent
        request.send_response(200)
        request.end_headers()
        for _ in range(2_000):
            request.wfile.write(bytes(100_000))
            num_sent += 1

    site.answer = flood
    with fails(FailureCode.INPUT_TOO_LARGE, "more than 256000 bytes"):
        fetcher().fetch(site.url())
    assert num_sent < 500


def test_site_that_drips_is_given_up(site: Site, fetcher: FetcherFor) -> None:
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not over.wait(0.05):
            request.wfile.write(b"x")

    site.answer = drip
    began = monotonic()
    try:
        with fails(FailureCode.INPUT_UNAVAILABLE):
            fetcher(total_seconds=0.5).fetch(site.url())
    finally:
        over.set()
    assert monotonic() - began < 5


def test_compressed_answer_is_refused(site: Site, fetcher: FetcherFor) -> None:
    site.answer = reply(200, CONTENT, Content_Encoding="gzip")
    with fails(FailureCode.INPUT_NOT_ALLOWED, "encoding"):
        fetcher().fetch(site.url())


def test_certificate_of_another_name_is_refused(site: Site, fetcher: FetcherFor) -> None:
    with fails(FailureCode.INPUT_NOT_ALLOWED, "certificate"):
        fetcher().fetch(site.url(name="another.example"))


def test_certificate_of_an_unknown_authority_is_refused(site: Site, fetcher: FetcherFor) -> None:
    rules = UrlRules(ports=(site.port,), max_bytes=1)
    stranger = Fetcher(rules, resolve=Resolver([HERE]), is_allowed=lambda _: True)
    with fails(FailureCode.INPUT_NOT_ALLOWED, "certificate"):
        stranger.fetch(site.url())
    assert site.seen == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://pictures.example/a.png", "must be https"),
        ("https://user:secret@pictures.example/a.png", "user or password"),
        ("https://pictures.example:99999/a.png", "cannot be read"),
        ("https://pictures.example:22/a.png", "port"),
        ("https:///a.png", "host"),
        ("https://pic tures.example/a.png", "cannot be read"),
    ],
)
def test_url_that_is_not_as_it_has_to_be_is_refused(
    fetcher: FetcherFor, url: str, message: str
) -> None:
    with fails(FailureCode.INPUT_NOT_ALLOWED, message):
        fetcher().fetch(url)


@pytest.mark.parametrize(
    ("hosts", "is_allowed"),
    [((), True), ((NAME,), True), ((".example",), True), (("example",), False), (("b.a",), False)],
)
def test_hosts_may_be_listed(
    site: Site, fetcher: FetcherFor, hosts: Sequence[str], is_allowed: bool
) -> None:
    if is_allowed:
        assert fetcher(hosts=hosts).fetch(site.url()) == CONTENT
    else:
        with fails(FailureCode.INPUT_NOT_ALLOWED, "host"):
            fetcher(hosts=hosts).fetch(site.url())


def test_redirects_are_followed_a_few_times(site: Site, fetcher: FetcherFor) -> None:
    def go_on(request: BaseHTTPRequestHandler) -> None:
        number = int(request.path[1:])
        (reply(200, CONTENT) if number == 3 else redirect(f"/{number + 1}"))(request)

    site.answer = go_on
    assert fetcher().fetch(site.url("/0")) == CONTENT
    with fails(FailureCode.INPUT_NOT_ALLOWED, "too often"):
        fetcher(max_redirects=2).fetch(site.url("/0"))


@pytest.mark.parametrize(
    "location",
    ["http://pictures.example/", "https://127.0.0.1/", "https://u:p@pictures.example/", "file:///"],
)
def test_redirect_is_a_url_like_any_other(site: Site, fetcher: FetcherFor, location: str) -> None:
    site.answer = redirect(location)
    with fails(FailureCode.INPUT_NOT_ALLOWED):
        fetcher(hosts=(NAME,)).fetch(site.url())
    assert len(site.seen) == 1


MALFORMED = [
    "https://[::",
    "https://[::1",
    "https://::1]/",
    "https://[v1.x]/",
    "https://[fe80::1%25eth0]/",
    "//[",
    "//[::1/a.png",
    "https://a..b/",
    "https://.../",
    f"https://{'a' * 300}.example/",
    "https://pictures.example:port/",
    "https://pictures.example:-1/",
    "https://pictures.example:99999/",
    "https://%zz/",
    "https://%00/",
    "https://xn--/",
    "https://xn--a-ecp.example/",
    "https://\xff/",
    "https://\x01/",
    "https://pictures.example\\@127.0.0.1/",
    "https://a b/",
    "https:",
    "https://",
    "https:///",
    "://",
    "data:,",
]


@pytest.mark.parametrize("location", MALFORMED)
def test_redirect_to_what_is_no_url_is_refused(
    site: Site, fetcher: FetcherFor, location: str
) -> None:
    def by_name(host: str, port: int) -> Sequence[str]:
        return [HERE] if host == NAME else resolve(host, port)

    site.answer = redirect(location)
    with pytest.raises(TaskError) as caught:
        fetcher(by_name, max_redirects=1, total_seconds=2.0).fetch(site.url())
    assert site.seen
    assert caught.value.code in (FailureCode.INPUT_NOT_ALLOWED, FailureCode.INPUT_UNAVAILABLE)


def test_redirect_to_strange_places_fails_by_its_code(site: Site, fetcher: FetcherFor) -> None:
    random = Random(7)
    starts = ["https://", "//", "https:", "/", ""]
    parts = ["[", "]", ":", "::", "@", "%", "%2", "?", "#", "..", "a", "\xe9", " ", "\\", "\t"]
    parts += [NAME, str(site.port), "127.0.0.1", "443", "xn--", "/"]
    found = fetcher(hosts=(NAME,), max_redirects=1)
    for _ in range(300):
        rest = "".join(random.choices(parts, k=random.randint(1, 6)))
        site.answer = redirect(random.choice(starts) + rest)
        with pytest.raises(TaskError):
            found.fetch(site.url())


@pytest.mark.parametrize("url", [one for one in MALFORMED if one.startswith("https://")])
def test_url_that_is_none_is_refused(fetcher: FetcherFor, url: str) -> None:
    with pytest.raises(TaskError):
        fetcher(resolve, is_public, total_seconds=0.2).fetch(url)


def test_redirect_to_this_machine_meets_nobody(site: Site, fetcher: FetcherFor) -> None:
    with Listener() as listener:
        site.answer = redirect(f"https://inside.example:{listener.port}/")

        def by_name(host: str, _port: int) -> Sequence[str]:
            return [HERE] if host == NAME else ["127.0.0.1"]

        # The site itself stands on loopback, so it is let through once.
        checks = iter([True, False])
        found = fetcher(by_name, lambda _: next(checks), ports=(site.port, listener.port))
        with fails(FailureCode.INPUT_NOT_ALLOWED, "not public"):
            found.fetch(site.url())
        assert listener.count() == 0


def test_name_that_is_resolved_anew_each_time_is_asked_once(
    site: Site, fetcher: FetcherFor
) -> None:
    """Rebinding: the second answer would be this machine."""
    with Listener() as listener:
        resolver = Resolver([PUBLIC], [HERE])
        found = fetcher(
            resolver, is_public, ports=(listener.port,), connect_seconds=0.05, total_seconds=0.3
        )
        with fails(FailureCode.INPUT_UNAVAILABLE):
            found.fetch(f"https://{NAME}:{listener.port}/")
        assert listener.count() == 0
        assert resolver.asked == [NAME]


def test_name_with_one_address_of_ours_is_refused_as_a_whole(fetcher: FetcherFor) -> None:
    with Listener() as listener:
        found = fetcher(Resolver([PUBLIC, HERE]), is_public, ports=(listener.port,))
        with fails(FailureCode.INPUT_NOT_ALLOWED, "not public"):
            found.fetch(f"https://{NAME}:{listener.port}/")
        assert listener.count() == 0


def test_environment_names_no_proxy(
    site: Site, fetcher: FetcherFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Listener() as listener:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
        assert fetcher().fetch(site.url()) == CONTENT
        assert listener.count() == 0


@pytest.mark.parametrize("host", HOSTS)
def test_no_spelling_of_a_private_address_is_connected_to(host: str) -> None:
    """By the resolver of the system, as in earnest."""
    with Listener() as listener:
        rules = UrlRules(
            ports=(listener.port,), max_bytes=1, connect_seconds=0.2, total_seconds=0.3
        )
        with pytest.raises(TaskError) as caught:
            Fetcher(rules, resolve=resolve).fetch(f"https://{host}:{listener.port}/x.png")
        assert caught.value.code in (
            FailureCode.INPUT_NOT_ALLOWED,
            FailureCode.INPUT_UNAVAILABLE,  # a name that does not exist here
        )
        sleep(0.01)
        assert listener.count() == 0


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1",
        "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1",
        "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:5db8:d70e::1",
        "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1",
        "ff02::1", "ff0e::1", "2606:4700::1%eth0",
    ],
)  # fmt: skip
def test_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2a00::1"],
)
def test_address_is_public(address: str) -> None:
    assert is_public(address)
