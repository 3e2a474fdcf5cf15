"""Asking Redis Sentinels where the primary is.

They are asked in turn, over a connection for each question: a sentinel that has died, or was
restarted, costs one short time-out. The one that named the primary is the first to be asked next.
What one of them says is not believed by itself: who connects looks at the server's role, and the
next sentinel is asked where that one is no primary.
"""

from __future__ import annotations

from collections.abc import Iterator

import redis

from visionq.broker_urls import BrokerAddress
from visionq.primaries import NoPrimary, Place
from visionq.questions import ask
from visionq.refusals import is_for_good
from visionq.sentinel_urls import read_sentinel_url
from visionq.tls import tls_advice

_HOSTS = "start the sentinels, or correct the hosts and the name in broker.url"
_LOGIN = "set broker.sentinel_password, and broker.sentinel_user if need be, to the sentinels' own"

SENTINEL_SECONDS = 0.5
"""To connect to a sentinel, and to wait for its answer: it has nothing to do but to answer."""


class Sentinels:
    """The locator of a `sentinel://` URL. Keeps no connection, so that a fork may come."""

    is_instant = False

    def __init__(self, address: BrokerAddress) -> None:
        told = read_sentinel_url(address.url)
        self._name = told.name
        self._order: tuple[Place, ...] = told.sentinels
        self._tls = address.tls
        self._user = (address.sentinel_user, address.sentinel_password)

    def candidates(self) -> Iterator[Place]:
        """As `Locator.candidates`. Raises `NoPrimary` where no sentinel names one."""
        problems: list[str] = []
        advice: str | None = None
        named: set[Place] = set()
        for sentinel in self._order:
            try:
                place = self._ask(sentinel)
            except (redis.RedisError, OSError) as error:
                problems.append(f"{_shown(sentinel)}: {str(error).rstrip('.')}")
                advice = advice or tls_advice(error) or (_LOGIN if is_for_good(error) else None)
                continue
            if place is None:
                problems.append(f"{_shown(sentinel)} knows no primary named {self._name}")
                continue
            self._order = (sentinel, *(other for other in self._order if other != sentinel))
            if place not in named:
                named.add(place)
                yield place
        if not named:
            said = f"no sentinel names the primary {self._name} ({'; '.join(problems)})"
            raise NoPrimary(f"{said}: {advice or _HOSTS}")

    def moved_to(self, place: Place) -> None:
        """Sentinels know of no slots."""

    def _ask(self, sentinel: Place) -> Place | None:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        [answer] = ask(
            sentinel, [question], tls=self._tls, user=self._user, seconds=SENTINEL_SECONDS
        )
        return None if answer is None else (answer[0].decode(), int(answer[1]))


def _shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
