"""`visionq-worker check`: a line for each thing a worker needs, and which of them is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from tests.cli.commands import json_lines, visionq_worker
from tests.support.tls import TlsProxy, papers
from tests.support.workers import BIN, environment
from visionq.local import LocalUrls
from visionq_worker.model.tiny import make_tiny
from visionq_worker.permissions import scripts

Env = dict[str, str]

QUICK_CHECK_AND_MODULES = """
import sys
from visionq_worker.cli import main

try:
    main(["check", "--quick"])
except SystemExit as ended:
    print(ended.code, sorted({"torch", "transformers", "boto3", "redis"} & set(sys.modules)))
"""


def failures(env: Env, *arguments: str) -> list[str]:
    """The FAIL lines of a check that found something."""
    result = visionq_worker(env, "check", *arguments)
    assert (result.exit_code, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    names = [line.split()[1].rstrip(":") for line in lines]
    areas = dict.fromkeys(name.partition(".")[0] for name in names)
    assert list(areas) == ["broker", "bucket", "device", "model"]
    return [line for line in lines if line.startswith("FAIL ")]


def test_all_is_well(idle: Env, namespace: str) -> None:
    result = visionq_worker(idle, "check")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert re.fullmatch(rf"ok   broker: Valkey [0-9.]+ answers; namespace {namespace}", lines[0])
    assert lines[1:11] == [
        "ok   broker.info: INFO may be read",
        "ok   broker.cluster: no cluster",
        "ok   broker.role: the primary, with no replica: what its disk loses is lost",
        "ok   broker.eviction: noeviction, no maxmemory",
        "ok   broker.persistence: there is an append-only file",
        "ok   broker.keys: those of the namespace may be read and written",
        "ok   broker.commands: each that a worker uses may be used",
        f"ok   broker.scripts: {len(scripts())} compile, and each of their commands may be used",
        "ok   broker.results: Celery's results may be stored",
        "ok   broker.control: Celery's control commands may be taken and answered",
    ]
    assert lines[11:16] == [
        "ok   bucket: visionq is there",
        "ok   bucket.put: objects may be written",
        "ok   bucket.get: objects may be read",
        "ok   bucket.head: objects may be looked at",
        "ok   bucket.missing: an object that is not there is reported as that",
    ]
    # The embedded store does not know conditional writes.
    assert lines[16].startswith("warn bucket.conditional: conditional writes (If-None-Match) are")
    assert lines[17:] == [
        "ok   bucket.delete: objects may be removed",
        "ok   device: cpu (no GPU is used), float32, sdpa",
        "ok   model: tiny is here",
    ]


def test_report_as_json_is_a_line_per_finding(idle: Env, closed_port: int) -> None:
    away = idle | {"VISIONQ_STORAGE__ENDPOINT_URL": f"http://127.0.0.1:{closed_port}"}
    result = visionq_worker(away, "check", "--quick", "--json")
    assert result.exit_code == 1
    broker, *_, bucket = json_lines(result)
    assert (broker["name"], broker["ok"], broker["level"]) == ("broker", True, "ok")
    assert (bucket["name"], bucket["ok"], bucket["level"]) == ("bucket", False, "fail")
    assert bucket["text"].startswith("object store: EndpointConnectionError: ")


def test_broker_that_is_away_is_one_line(idle: Env, closed_port: int) -> None:
    (line,) = failures(idle | {"VISIONQ_BROKER__URL": f"redis://127.0.0.1:{closed_port}/0"})
    assert line.startswith("FAIL broker: Redis: ConnectionError: ")


def test_wrong_password_is_one_line_without_the_password(idle: Env, urls: LocalUrls) -> None:
    wrong = f"redis://:hunter2@{urls.broker_address}/0"
    (line,) = failures(idle | {"VISIONQ_BROKER__URL": wrong})
    assert line.startswith("FAIL broker: Redis: AuthenticationError: ")
    assert "hunter2" not in line


def test_url_with_a_password_that_is_not_encoded_is_one_line(idle: Env) -> None:
    (line,) = failures(idle | {"VISIONQ_BROKER__URL": "redis://:hunter2/x@127.0.0.1:6379/0"})
    assert line == "FAIL broker: url is not redis://user:password@host:port/db"


def test_wrong_secret_of_the_store_is_one_line_without_the_secret(idle: Env) -> None:
    (line,) = failures(idle | {"VISIONQ_STORAGE__SECRET_KEY": "hunter2" * 6})
    assert line.startswith("FAIL bucket: the object store refused access")
    assert "hunter2" not in line


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_password_in_the_endpoint_is_shown_nowhere(idle: Env, closed_port: int, level: str) -> None:
    endpoint = f"http://somebody:hunter2@127.0.0.1:{closed_port}"
    away = idle | {
        "VISIONQ_STORAGE__ENDPOINT_URL": endpoint,
        "VISIONQ_BROKER__URL": f"redis://:hunter2@127.0.0.1:{closed_port}/0",
        "VISIONQ_WORKER__LOG_LEVEL": level,
    }
    for command, code in ((["check", "--quick"], 1), (["run"], 3)):
        # A process of its own: Celery's worker takes over the signals of the one it runs in.
        result = subprocess.run(
            [BIN / "visionq-worker", *command],
            env=os.environ | away,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == code
        assert "hunter2" not in result.stdout + result.stderr
        assert "somebody" not in result.stdout + result.stderr


def test_endpoint_with_a_password_is_the_same_store(idle: Env) -> None:
    plain = idle["VISIONQ_STORAGE__ENDPOINT_URL"]
    with_user = plain.replace("://", "://somebody:hunter2@")
    result = visionq_worker(idle | {"VISIONQ_STORAGE__ENDPOINT_URL": with_user}, "check", "--quick")
    assert (result.exit_code, "hunter2" in result.stdout) == (0, False)


def test_missing_bucket_is_one_line(idle: Env) -> None:
    (line,) = failures(idle | {"VISIONQ_STORAGE__BUCKET": "nobody-made-this"})
    assert line == "FAIL bucket: there is no bucket 'nobody-made-this'"


def test_device_that_is_not_there_is_one_line(idle: Env) -> None:
    (line,) = failures(idle, "--device=cuda:99")
    assert line.startswith("FAIL device: cuda:99 cannot be used: ")


def test_missing_model_is_one_line(idle: Env) -> None:
    (line,) = failures(idle, "--model=./no-such-model")
    assert line == (
        "FAIL model: no model folder at ./no-such-model: correct the path or use a hub id"
    )


def test_quick_check_looks_at_broker_and_bucket_only_and_loads_no_torch(
    urls: LocalUrls, namespace: str
) -> None:
    assert find_spec("torch") is not None
    checked = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUICK_CHECK_AND_MODULES],
        env=environment(urls, namespace),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.stderr == ""
    *lines, modules = checked.stdout.splitlines()
    assert modules == "0 ['boto3', 'redis']"
    assert {line.split()[1].partition(".")[0].rstrip(":") for line in lines} == {"broker", "bucket"}


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("VISIONQ_BROKER__TIMEOUT_SECONDS", "soon", "broker.timeout_seconds: "),
        ("VISIONQ_BROKER__URL", "localhost:6379", "broker.url: "),
        ("VISIONQ_MODEL__DTYPE", "int3", "model.dtype: "),
        ("VISIONQ_WORKER__THREADS", "8", "worker.threads: "),
        ("VISIONQ_MODLE__SOURCE", "tiny", "VISIONQ_MODLE__SOURCE: no such setting"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_setting_ends_the_command_with_2_and_names_the_key(
    idle: Env, command: str, variable: str, value: str, key: str
) -> None:
    result = visionq_worker(idle | {variable: value}, command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("visionq-worker: ")
    assert key in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--device=tpu", "model.device: "),
        ("--concurrency=0", "worker.concurrency: "),
        ("--log-level=LOUD", "worker.log_level: "),
    ],
)
def test_wrong_flag_is_named_as_the_setting_it_stands_for(idle: Env, flag: str, key: str) -> None:
    result = visionq_worker(idle, "run", flag)
    assert result.exit_code == 2
    assert key in result.stderr


def test_model_folder_without_weights_is_one_line(idle: Env, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_tiny(folder)
    (folder / "model.safetensors").unlink()
    (line,) = failures(idle | {"VISIONQ_MODEL__SOURCE": str(folder)})
    assert line == f"FAIL model: {folder} holds no weights (*.safetensors)"


def test_redis_that_no_replica_follows_is_named_where_replicas_have_to_confirm(idle: Env) -> None:
    asked = idle | {
        "VISIONQ_BROKER__REPLICAS_TO_CONFIRM": "1",
        "VISIONQ_BROKER__TIMEOUT_SECONDS": "0.4",
    }
    result = visionq_worker(asked, "check", "--quick")
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == [
        "FAIL broker.replicas: 0 of 1 replicas of Redis have confirmed the write within 0.3 s "
        "(broker.replicas_to_confirm): no task can be accepted, and none ends; let replicas follow "
        "this Redis, or lower it"
    ]


def test_certificate_that_cannot_be_used_or_trusted_is_one_line(
    idle: Env, urls: LocalUrls, tmp_path: Path
) -> None:
    authority = trustme.CA()
    other = papers(trustme.CA(), tmp_path)
    parts = urlsplit(urls.broker_url)
    with TlsProxy(parts.port or 0, authority, wants_certificate=False) as proxy:
        url = f"rediss://:{parts.password}@localhost:{proxy.port}/0"
        encrypted = idle | {"VISIONQ_BROKER__URL": url}
        missing = encrypted | {"VISIONQ_BROKER__TLS_CA_FILE": str(tmp_path / "none.pem")}
        lines = visionq_worker(missing, "check", "--quick").stdout.splitlines()
        path = tmp_path / "none.pem"
        assert lines[0] == (
            f"FAIL broker: broker.tls_ca_file cannot be read: {path}: No such file or directory"
        )
        wrong = encrypted | {"VISIONQ_BROKER__TLS_CA_FILE": str(other.ca)}
        lines = visionq_worker(wrong, "check", "--quick").stdout.splitlines()
    assert lines[0].startswith("FAIL broker: Redis: ConnectionError")
    assert "set broker.tls_ca_file to the certificate of Redis's authority" in lines[0]
    assert str(parts.password) not in lines[0]
