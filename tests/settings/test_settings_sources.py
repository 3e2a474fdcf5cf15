"""Where settings come from: file, then environment, then flags; what is wrong stops the start."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from visionq.errors import QuestionNotAllowed, SettingsError
from visionq.kinds import BUILTIN_KINDS, Retry
from visionq.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, since that is where a settings file is looked for."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Any:
    def write_settings(text: str, name: str = "settings.toml") -> Path:
        path = folder / name
        path.write_text(text, "utf-8")
        return path

    return write_settings


def test_without_file_and_environment_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.broker.url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.broker.namespace == "visionq"
    assert settings.storage.bucket == "visionq"
    assert settings.storage.endpoint_url is None
    assert settings.worker.concurrency == 80
    assert settings.model.source == "microsoft/Phi-3.5-vision-instruct"
    assert settings.kinds == BUILTIN_KINDS


def test_the_file_of_the_working_folder_is_read(write: Any) -> None:
    write('[broker]\nnamespace = "staging"\n')
    assert load_settings().broker.namespace == "staging"


def test_visionq_settings_names_another_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write('[broker]\nnamespace = "staging"\n')
    monkeypatch.setenv(
        "VISIONQ_SETTINGS", str(write('[broker]\nnamespace = "live"\n', "live.toml"))
    )
    assert load_settings().broker.namespace == "live"


def test_a_path_given_wins_over_visionq_settings(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONQ_SETTINGS", "nowhere.toml")
    path = write('[broker]\nnamespace = "given"\n', "given.toml")
    assert load_settings(path).broker.namespace == "given"


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"no settings file nowhere\.toml"):
        load_settings("nowhere.toml")
    monkeypatch.setenv("VISIONQ_SETTINGS", "elsewhere.toml")
    with pytest.raises(SettingsError, match=r"no settings file elsewhere\.toml"):
        load_settings()


def test_flags_win_over_the_environment_and_that_over_the_file(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[worker]\nconcurrency = 2\nprogress_seconds = 2\nretry_seconds = 2\n")
    monkeypatch.setenv("VISIONQ_WORKER__CONCURRENCY", "3")
    monkeypatch.setenv("VISIONQ_WORKER__PROGRESS_SECONDS", "3")
    worker = load_settings(worker={"concurrency": 4}).worker
    assert (worker.concurrency, worker.progress_seconds, worker.retry_seconds) == (4, 3, 2)
    assert worker.log_level == "INFO"


def test_a_flag_that_is_none_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONQ_WORKER__CONCURRENCY", "3")
    settings = load_settings(worker={"concurrency": None}, broker={"url": None})
    assert settings.worker.concurrency == 3
    assert settings.broker.url.get_secret_value() == "redis://127.0.0.1:6379/0"


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONQ_STORAGE__ALLOWED_BUCKETS", '["archive", "scans"]')
    assert load_settings().storage.allowed_buckets == ("archive", "scans")


def test_images_are_read_below_inputs_unless_other_prefixes_are_set(write: Any) -> None:
    assert load_settings().storage.image_prefixes == ("inputs/",)
    write('[storage]\nimage_prefixes = ["inputs/", "scans/2024 "]\n')
    assert load_settings().storage.image_prefixes == ("inputs/", "scans/2024 ")


def test_one_key_of_a_kind_is_changed_and_the_rest_is_kept(write: Any) -> None:
    write('[kinds.compare]\nmax_images = 3\n\n[kinds.invoice]\ndefault_question = "Who pays?"\n')
    kinds = load_settings().kinds
    assert kinds["compare"].max_images == 3
    assert kinds["compare"].min_images == 2
    assert kinds["compare"].default_question == "What is different between these pictures?"
    assert kinds["invoice"].default_question == "Who pays?"
    assert kinds["invoice"].max_images == 1
    assert sorted(kinds) == sorted([*BUILTIN_KINDS, "invoice"])


def test_a_kind_is_changed_by_file_and_environment_key_by_key(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[kinds.ask]\nmax_images = 3\nversion = 2\n")
    monkeypatch.setenv("VISIONQ_KINDS__ASK__VERSION", "3")
    kind = load_settings().kinds["ask"]
    assert (kind.max_images, kind.version, kind.min_images) == (3, 3, 1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[brocker]\nurl = 'redis://a'\n", "brocker"),
        ("[broker]\nulr = 'redis://a'\n", "broker.ulr"),
        ("[broker]\nurl = 5\n", "broker.url"),
        ("[broker]\nurl = 'amqp://a'\n", "broker.url"),
        ("[broker]\nurl = 'localhost:6379'\n", "broker.url"),
        ("[broker]\nnamespace = 'a b'\n", "broker.namespace"),
        ("[broker]\ntimeout_seconds = 0\n", "broker.timeout_seconds"),
        ("[broker]\nrecord_ttl_seconds = 59\n", "broker.record_ttl_seconds"),
        ("[storage]\nendpoint_url = '127.0.0.1:9000'\n", "storage.endpoint_url"),
        ("[storage]\nbucket = 'Big Bucket'\n", "storage.bucket"),
        ("[storage]\nallowed_buckets = 'archive'\n", "storage.allowed_buckets"),
        ("[worker]\nconcurrency = 0\n", "worker.concurrency"),
        ("[worker]\nconcurrency = 'many'\n", "worker.concurrency"),
        ("[worker]\nlog_level = 'LOUD'\n", "worker.log_level"),
        ("[model]\ndevice = 'gpu'\n", "model.device"),
        ("[model]\ndtype = 'int8'\n", "model.dtype"),
        ("[limits]\nmax_image_pixels = 0\n", "limits.max_image_pixels"),
        ("[kinds.ocr]\npromt = 'Read.'\n", "kinds.ocr.promt"),
        ("[kinds.ocr]\nparser = 'xml'\n", "kinds.ocr.parser"),
        ("[kinds.ocr]\nmax_images = 'two'\n", "kinds.ocr.max_images"),
        ("[kinds]\nocr = 'Read.'\n", "kinds.ocr"),
        ("kinds = 5\n", "kinds"),
    ],
)
def test_an_unknown_key_or_a_bad_value_in_the_file_is_named(
    write: Any, text: str, named: str
) -> None:
    path = write(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{named}: " in str(caught.value)
    assert str(path.name) in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("VISIONQ_BROCKER__URL", "redis://a", "VISIONQ_BROCKER__URL"),
        ("VISIONQ_URL", "redis://a", "VISIONQ_URL"),
        ("VISIONQ_BROKER", "redis://a", "VISIONQ_BROKER"),
        ("VISIONQ_BROKER_URL", "redis://a", "VISIONQ_BROKER_URL"),
        ("VISIONQ_BROKER__ULR", "redis://a", "broker.ulr"),
        ("VISIONQ_BROKER__URL", "http://a", "broker.url"),
        ("VISIONQ_WORKER__CONCURRENCY", "many", "worker.concurrency"),
        ("VISIONQ_STORAGE__ALLOWED_BUCKETS", "archive", "storage.allowed_buckets"),
        ("VISIONQ_STORAGE__IMAGE_PREFIXES", "inputs/", "storage.image_prefixes"),
        ("VISIONQ_LIMITS__IMAGE_FORMATS", "[JPEG]", "limits.image_formats"),
        ("VISIONQ_LIMITS__IMAGE_FORMATS", '["JPG"]', "limits.image_formats"),
        ("VISIONQ_LIMITS__DECODING", "quick", "limits.decoding"),
        ("VISIONQ_KINDS__OCR", "Read.", "kinds.ocr"),
    ],
)
def test_an_unknown_variable_or_a_bad_value_of_one_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=named):
        load_settings()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"brocker": {"url": "redis://a"}}, "brocker"),
        ({"broker": {"ulr": "redis://a"}}, "broker.ulr"),
        ({"worker": {"concurrency": 0}}, "worker.concurrency"),
    ],
)
def test_an_unknown_flag_or_a_bad_value_of_one_is_named(
    flags: dict[str, dict[str, Any]], named: str
) -> None:
    with pytest.raises(SettingsError, match=f"{named}: "):
        load_settings(**flags)


def test_every_wrong_key_is_named_at_once(write: Any) -> None:
    write("[worker]\nconcurrency = 0\nthreads = 4\n\n[model]\ndtype = 'int8'\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for named in ("worker.concurrency: ", "worker.threads: ", "model.dtype: "):
        assert named in str(caught.value)


def test_a_file_that_is_no_toml_is_named(write: Any) -> None:
    write("[broker\n")
    with pytest.raises(SettingsError, match=r"settings\.toml"):
        load_settings()


def test_secrets_stand_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONQ_BROKER__URL", "redis://:hush-broker@127.0.0.1:6379/0")
    monkeypatch.setenv("VISIONQ_STORAGE__ACCESS_KEY", "hush-key")
    monkeypatch.setenv("VISIONQ_STORAGE__SECRET_KEY", "hush-secret")
    settings = load_settings()
    address = settings.storage.address()
    shown = f"{settings!r} {settings} {settings.broker!r} {settings.storage!r} {address!r}"
    assert "hush" not in shown
    assert (address.access_key, address.secret_key) == ("hush-key", "hush-secret")
    assert settings.broker.url == SecretStr("redis://:hush-broker@127.0.0.1:6379/0")


def test_secrets_stand_in_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONQ_BROKER__URL", "http://:hush-broker@127.0.0.1")
    monkeypatch.setenv("VISIONQ_STORAGE__SECRET_KEY", "hush-secret")
    monkeypatch.setenv("VISIONQ_STORAGE__SECRET_KAY", "hush-kay")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_settings_do_not_change_once_loaded() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.broker.namespace = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.broker = settings.broker  # type: ignore[misc]


def test_reading_settings_leaves_the_environment_alone(write: Any) -> None:
    write('[broker]\nnamespace = "staging"\n')
    before = dict(os.environ)
    assert isinstance(load_settings(), Settings)
    assert dict(os.environ) == before


def test_a_kind_with_impossible_limits_or_a_bad_name_stops_at_start(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[kinds.ocr]\nmax_images = 0\n")
    with pytest.raises(SettingsError, match=r"kinds\.ocr: .*max_images"):
        load_settings(file)
    file.write_text('[kinds."No Kind"]\nprompt = "x"\n')
    with pytest.raises(SettingsError, match="No Kind"):
        load_settings(file)


def test_operator_can_forbid_questions(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[limits]\nfree_questions = false\n[kinds.cars]\nprompt = 'Count cars.'\n")
    kinds = load_settings(file).kinds
    assert not any(kind.takes_question for kind in kinds.values())
    kinds["cars"].check("cars", 1, None)
    with pytest.raises(QuestionNotAllowed, match="'cars' takes no question of the task's own"):
        kinds["cars"].check("cars", 1, "And bikes?")


def test_retries_are_read(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[kinds.ocr]\nretries = [{temperature = 0.3}, {num_crops = 4}]\n")
    assert load_settings(file).kinds["ocr"].retries == (Retry(temperature=0.3), Retry(num_crops=4))


@pytest.mark.parametrize("retry", ["{}", "{temperature = 3}", "{num_crops = 0}", "{seed = 1}"])
def test_retry_that_changes_nothing_or_too_much_stops_at_start(tmp_path: Path, retry: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"[kinds.ocr]\nretries = [{retry}]\n")
    with pytest.raises(SettingsError, match=r"kinds\.ocr\.retries"):
        load_settings(file)
