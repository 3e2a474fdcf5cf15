"""What a real worker tells of itself, and what a client makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from visionq import Client, PromptTooLong, UrlsNotAllowed
from visionq.fleet import REPORT_TTL_SECONDS, Fleets
from visionq.local import LocalUrls
from visionq.names import Names

SECONDS = 30.0


def test_a_worker_tells_its_context_and_how_fast_it_is(
    urls: LocalUrls,
    namespace: str,
    names: Names,
    client: Client,
    raw: redis.Redis,
    pictures: Path,
    tmp_path: Path,
) -> None:
    fleets, cover = Fleets(raw, names), pictures / "book_cover.jpg"
    env = environment(urls, namespace, VISIONQ_MODEL__MAX_CONTEXT_TOKENS="4096")
    with running_worker(env, tmp_path / "log"):
        told = wait_until(lambda: fleets.look().workers, seconds=SECONDS)[0]
        assert (told.model, told.model_revision, told.max_context_tokens) == ("tiny", None, 4096)
        assert (told.concurrency, told.tasks_per_second, told.seconds_per_task) == (80, None, None)
        assert told.urls_allowed is False
        with pytest.raises(UrlsNotAllowed):
            client.ocr("https://example.org/a.png")
        assert 0 < raw.ttl(names.workers()) <= REPORT_TTL_SECONDS

        estimate = client.estimate("ocr", cover, "Title?", max_new_tokens=4)
        assert (estimate.max_context_tokens, estimate.fits, estimate.seconds) == (4096, True, None)
        usage = client.ocr(cover, "Title?", max_new_tokens=4).result(SECONDS).usage
        assert usage is not None
        assert estimate.image_tokens == (usage.image_tokens,)
        assert usage.prompt_tokens <= estimate.max_prompt_tokens

        with pytest.raises(PromptTooLong):
            client.ocr(cover, max_new_tokens=3000)
        measured = wait_until(
            lambda: client.estimate("ocr", cover, max_new_tokens=4).seconds, seconds=SECONDS
        )
        assert measured is not None
        assert 0 < measured < SECONDS
        told = fleets.look().workers[0]
        assert told.tasks_per_second
