"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import POCKET_NAMESPACE
from tests.support.examples import CHART_ANSWER, COVER, COVER_ANSWER, COVER_AUTHOR, COVER_TITLE
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq import Client, State
from visionq.local import LocalUrls

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


def _example(heading: str) -> str:
    """The first Python block below a heading of the README."""
    text = (ROOT / "README.md").read_text()
    section = text.split(f" {heading}\n", 1)[1]
    match = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return match[1]


def _load(name: str, source: str) -> Any:
    module = ModuleType(name)
    exec(compile(source, f"README.md:{name}", "exec"), module.__dict__)
    return module


@pytest.fixture
def _configured(pocket: Client, urls: LocalUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment an operator would set, and the clone as working folder."""
    monkeypatch.chdir(ROOT)
    for name, value in environment(urls, POCKET_NAMESPACE).items():
        if name.startswith("VISIONQ_"):
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_configured")
def test_first_example_prints_key_and_answer(capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("ask", _example("Ask and answer"))
    assert capsys.readouterr().out == (
        f"{module.task.id} results/{module.task.id}.json\n{CHART_ANSWER} ok\n"
    )
    module.client.close()


@pytest.mark.usefixtures("_configured")
def test_typed_example_prints_a_book(capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("typed", _example("An answer of your own type"))
    assert capsys.readouterr().out == f"{COVER_TITLE} by {COVER_AUTHOR}\n"
    result = module.task.result()
    assert result.value == module.book
    assert result.verdict.outcome == "ok"
    module.client.close()


@pytest.mark.usefixtures("_configured")
def test_estimate_example_prints_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("estimate", _example("Before it is sent"))
    assert capsys.readouterr().out.startswith("(757,) ")
    assert module.cost.fits is not False  # None, if the worker has only just started
    module.client.close()


@pytest.mark.usefixtures("_configured")
def test_fastapi_example_takes_a_photo_and_gives_the_answer(pictures: Path) -> None:
    from fastapi.testclient import TestClient

    module = _load("fastapi_app", _example("FastAPI"))
    photo = (pictures / COVER).read_bytes()
    with TestClient(module.app) as web:
        accepted = web.post("/covers", files={"photo": ("cover.jpg", photo, "image/jpeg")})
        assert accepted.status_code == 202
        task = accepted.json()
        early = web.get(task["answer"])
        assert early.status_code in (200, 409)
        status = wait_until(
            lambda: (
                found if (found := web.get(task["status"]).json())["state"] != "PENDING" else {}
            ),
            seconds=SECONDS,
        )
        assert status["kind"] == "ocr"
        ended = web.get(task["status"], params={"wait": 25}).json()
        assert ended["state"] == "SUCCESS"
        answer = web.get(task["answer"])
        assert answer.status_code == 200
        assert answer.json()["text"] == COVER_ANSWER
        assert answer.json()["task_id"] == task["id"]


@pytest.mark.usefixtures("_configured")
def test_fastapi_example_answers_404_and_422(pictures: Path) -> None:
    from fastapi.testclient import TestClient

    module = _load("fastapi_app", _example("FastAPI"))
    with TestClient(module.app) as web:
        assert web.get("/tasks/00000000-0000-0000-0000-000000000000").status_code == 404
        assert web.get("/tasks/nonsense").status_code == 404
        sent = web.post(
            "/covers", files={"photo": ("a.jpg", b"\xff\xd8 but no picture", "image/jpeg")}
        ).json()
        web.get(sent["status"], params={"wait": 25})
        failed = web.get(sent["answer"])
        assert failed.status_code == 422
        assert failed.json()["detail"] == {"code": "not_an_image", "retryable": False}


@pytest.mark.usefixtures("_configured")
def test_django_example_submits_after_the_commit(pictures: Path) -> None:
    import django
    from django.conf import settings
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import RequestFactory

    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    )
    django.setup()
    module = _load("django_views", _example("Django"))
    photo = SimpleUploadedFile("a.png", (pictures / "shelf_after.png").read_bytes())
    requests = RequestFactory()
    response = module.upload(requests.post("/photos", {"photo": photo, "order": "17"}))
    assert response.status_code == 202
    client: Client = module.vision()
    task = client.describe(photo_again(pictures), idempotency_key="order-17")
    assert client.wait(task.id, SECONDS).state is State.SUCCESS
    looked = module.look(requests.get("/"), task.id)
    assert b'"state": "SUCCESS"' in looked.content
    client.close()


def photo_again(pictures: Path) -> bytes:
    return (pictures / "shelf_after.png").read_bytes()


def test_what_the_examples_are_said_to_print_is_what_they_print() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"`{CHART_ANSWER} ok`" in readme
    assert f"`{COVER_TITLE} by {COVER_AUTHOR}`" in readme


def test_file_map_names_what_is_there() -> None:
    section = (ROOT / "README.md").read_text().split("## Where things are")[1]
    named = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
