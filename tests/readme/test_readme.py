"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.conftest import POCKET_NAMESPACE
from tests.support.examples import CHART_ANSWER, COVER, COVER_ANSWER, COVER_AUTHOR, COVER_TITLE
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq import Client, State
from visionq.local import LocalServers, LocalUrls, ServerName
from visionq.names import result_key
from visionq.objects import ObjectStore

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
NOBODY = "00000000-0000-4000-8000-000000000000"
DJANGO_URLS = "readme_django"


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
    set_environment(monkeypatch, environment(urls, POCKET_NAMESPACE))


def set_environment(monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str]) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in given.items():
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


@contextmanager
def fastapi_example() -> Iterator[TestClient]:
    """The example, serving, with the settings of this moment's environment."""
    module = _load("fastapi_app", _example("FastAPI"))
    with TestClient(module.app) as web:
        yield web


def posted(web: TestClient, content: bytes) -> Any:
    return web.post("/covers", files={"photo": ("cover.jpg", content, "image/jpeg")})


@pytest.mark.usefixtures("_configured")
def test_fastapi_example_answers_404_and_422() -> None:
    with fastapi_example() as web:
        unknown = [NOBODY, "nonsense", "%00", NOBODY.replace("0", "A"), "..%2Fresults"]
        for path in ("", "/answer", "?wait=1"):
            told = [web.get(f"/tasks/{one}{path}") for one in unknown]
            assert {reply.status_code for reply in told} == {404}
            bodies = [reply.json() for reply in told[:-1]]  # the last one's path has no view
            assert bodies == [{"error": "there is no such task"}] * len(bodies)
        for wait in ("nan", "inf", "-inf", "-1", "25.1", "soon"):
            assert web.get(f"/tasks/{NOBODY}", params={"wait": wait}).status_code == 422
        failed = posted(web, b"\xff\xd8 but no picture")
        web.get(failed.json()["status"], params={"wait": 25})
        failed = web.get(failed.json()["answer"])
        assert failed.json()["detail"]["retryable"] is False
        assert failed.status_code == 422
        assert posted(web, b"").status_code == 422
        assert posted(web, b"no picture").status_code == 422  # refused before it is stored


@pytest.mark.usefixtures("_configured")
def test_fastapi_example_answers_410_for_a_result_that_was_deleted(
    pictures: Path, store: ObjectStore
) -> None:
    with fastapi_example() as web:
        task = posted(web, (pictures / COVER).read_bytes()).json()
        assert web.get(task["status"], params={"wait": 25}).json()["state"] == "SUCCESS"
        store.delete(result_key(task["id"]))
        gone = web.get(task["answer"])
        assert gone.status_code == 410
        assert "127.0.0.1" not in gone.text
        assert web.get(task["status"]).json()["state"] == "SUCCESS"


def test_fastapi_example_answers_429_and_when_to_try_again(
    urls: LocalUrls, namespace: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, environment(urls, namespace, VISIONQ_BROKER__MAX_WAITING="1"))
    photo = (pictures / COVER).read_bytes()
    with fastapi_example() as web:
        accepted = posted(web, photo)
        assert accepted.status_code == 202
        full = posted(web, photo)
        assert full.status_code == 429
        assert 1 <= int(full.headers["Retry-After"]) <= 60
        early = web.get(accepted.json()["answer"])
        assert early.status_code == 409
        waited = web.get(accepted.json()["status"], params={"wait": 0.1}).json()
        assert (waited["state"], waited["has_workers"]) == ("PENDING", False)
        Client.from_settings().cancel(accepted.json()["id"])
        assert web.get(accepted.json()["answer"]).status_code == 410


@pytest.mark.parametrize("server", ["valkey", "s3"])
def test_fastapi_example_tells_nobody_where_the_servers_are(
    server: ServerName, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = (pictures / COVER).read_bytes()
    with LocalServers(tmp_path) as own:
        set_environment(monkeypatch, environment(own.urls, "readme"))
        with fastapi_example() as web:
            task = posted(web, photo).json()
            own.kill(server)
            replies = [posted(web, photo + b"another")]
            if server == "valkey":
                replies += [web.get(task["status"]), web.get(task["answer"])]
            for reply in replies:
                assert reply.status_code == 503
                assert reply.json() == {"error": "the service is not available"}
                assert reply.headers["Retry-After"] == "5"


@pytest.fixture(scope="module")
def _django() -> None:
    """Django may be set up once in a process."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF=DJANGO_URLS,
    )
    django.setup()


@pytest.fixture
def django_example(_django: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's views, behind the URLs that they stand in."""
    from django.urls import clear_url_caches

    module = _load(DJANGO_URLS, _example("Django"))
    monkeypatch.setitem(sys.modules, DJANGO_URLS, module)
    clear_url_caches()
    yield module
    if module.vision.cache_info().currsize:
        module.vision().close()


def sent_order(order: str, content: bytes) -> Any:
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import Client as Browser

    photo = SimpleUploadedFile("a.png", content)
    return Browser().post("/photos", {"photo": photo, "order": order})


@pytest.mark.usefixtures("_configured")
def test_django_example_tells_the_id_of_what_was_sent_after_the_commit(
    django_example: Any, pictures: Path
) -> None:
    from django.test import Client as Browser

    content = (pictures / "shelf_after.png").read_bytes()
    response = sent_order("17", content)
    assert response.status_code == 202
    task_id = response.json()["id"]
    assert sent_order("17", content).json() == {"id": task_id}
    assert django_example.vision().wait(task_id, SECONDS).state is State.SUCCESS
    assert Browser().get(f"/tasks/{task_id}").json()["state"] == "SUCCESS"
    assert sent_order("18", b"").status_code == 422


@pytest.mark.usefixtures("_configured")
def test_django_example_treats_bad_and_unknown_ids_alike(django_example: Any) -> None:
    from django.test import Client as Browser

    for task_id in (NOBODY, "nonsense", NOBODY.replace("0", "A"), "%00"):
        assert Browser().get(f"/tasks/{task_id}").status_code == 404


def test_django_example_answers_429_and_when_to_try_again(
    django_example: Any,
    urls: LocalUrls,
    namespace: str,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_environment(monkeypatch, environment(urls, namespace, VISIONQ_BROKER__MAX_WAITING="1"))
    content = (pictures / "shelf_after.png").read_bytes()
    assert sent_order("1", content).status_code == 202
    full = sent_order("2", content)
    assert full.status_code == 429
    assert 1 <= int(full.headers["Retry-After"]) <= 60


def test_what_the_examples_are_said_to_print_is_what_they_print() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"`{CHART_ANSWER} ok`" in readme
    assert f"`{COVER_TITLE} by {COVER_AUTHOR}`" in readme


def test_file_map_names_what_is_there() -> None:
    section = (ROOT / "README.md").read_text().split("## Where things are")[1]
    named = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
