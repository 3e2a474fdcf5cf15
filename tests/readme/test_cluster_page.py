"""docs/cluster.md says what the code does: its settings, its names, and its links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from celery import Celery

from tests.support.foreign import foreign_app
from visionq.broker_urls import BrokerAddress
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")
NAMES = Names(hash_tag=True)


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_its_settings_are_read() -> None:
    broker = load_settings(broker=tomllib.loads(block("toml"))["broker"]).broker
    assert broker.names() == NAMES
    assert len(BrokerAddress(broker.url.get_secret_value(), hash_tag=True).server_urls) == 2


def test_the_application_it_shows_is_the_one_that_was_tried(urls: LocalUrls) -> None:
    shown = Celery("shown", set_as_current=False)
    code = block("python").partition("app.send_task")[0]
    exec(code, {"app": shown})  # of our own page
    tried = foreign_app(urls, hash_tag=True)
    for name in (
        "result_backend_transport_options",
        "control_exchange",
        "event_exchange",
        "control_queue_expires",
        "event_queue_expires",
    ):
        assert shown.conf[name] == tried.conf[name], name
    assert f'queue="{NAMES.queue("interactive")}"' in block("python")


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
