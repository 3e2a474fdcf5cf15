"""The files under docker/: linted, and held to the security rules they promise.

No image is built here; that takes a Docker engine and several gigabytes of downloads.
"""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from visionq.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "worker.Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
ENV_EXAMPLE = ROOT / "docker" / ".env.example"

SERVICES = ("valkey", "s3", "worker")
SECRETS = {"VALKEY_PASSWORD", "VISIONQ_STORAGE__ACCESS_KEY", "VISIONQ_STORAGE__SECRET_KEY"}
WORKER_SETTINGS = {
    "VISIONQ_BROKER__URL",
    "VISIONQ_STORAGE__ENDPOINT_URL",
    "VISIONQ_STORAGE__ACCESS_KEY",
    "VISIONQ_STORAGE__SECRET_KEY",
    "VISIONQ_STORAGE__BUCKET",
    "VISIONQ_STORAGE__REGION",
    "VISIONQ_MODEL__SOURCE",
    "VISIONQ_MODEL__REVISION",
    "VISIONQ_MODEL__DEVICE",
    "VISIONQ_MODEL__DTYPE",
}
# What Compose fills in: ${NAME}, ${NAME:-default} or ${NAME:?complaint}.
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    """The Dockerfile's instructions: comments dropped, continued lines joined, ARGs filled in."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line for line in joined.splitlines() if line]
    arguments = dict(line[4:].split("=", 1) for line in found if re.match(r"ARG \w+=", line))
    return [re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], m[0]), line) for line in found]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load(COMPOSE.read_text())
    return cast("dict[str, dict[str, Any]]", compose["services"])


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    run = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert run.stdout == ""
    assert run.returncode == 0


def test_each_rule_that_hadolint_skips_has_a_reason() -> None:
    skipped = re.findall(r"^# hadolint ignore=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert skipped
    for rule in skipped:
        assert re.fullmatch(r"DL\d{4} # .{20,}", rule), rule


def test_base_images_are_pinned_to_a_version(instructions: list[str]) -> None:
    stages: set[str] = set()
    images: set[str] = set()
    for line in instructions:
        if named := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            if named[1] not in stages:
                images.add(named[1])
            stages.add(named[2])
    assert images == {
        "nvidia/cuda:13.0.3-base-ubuntu24.04",
        "nvidia/cuda:13.0.3-devel-ubuntu24.04",
    }


def test_flash_attn_is_compiled_only_when_asked_for(instructions: list[str]) -> None:
    assert "ARG WITH_FLASH_ATTN=0" in instructions
    assert "FROM torch AS flash-attn-0" in instructions
    assert "FROM nvidia/cuda:13.0.3-devel-ubuntu24.04 AS flash-attn-1" in instructions
    assert "FROM flash-attn-0 AS flash-attn" in instructions


def test_final_stage_runs_the_worker_as_a_fixed_user(instructions: list[str]) -> None:
    final = instructions[max(i for i, line in enumerate(instructions) if line[:5] == "FROM ") :]
    assert [line for line in final if line.startswith("USER ")] == ["USER 10001:10001"]
    assert 'VOLUME ["/var/cache/visionq"]' in final
    assert 'ENTRYPOINT ["visionq-worker"]' in final
    assert 'CMD ["run"]' in final
    (healthcheck,) = (line for line in final if line.startswith("HEALTHCHECK "))
    assert healthcheck.endswith('CMD ["visionq-worker", "probe", "live"]')
    assert any("VISIONQ_WORKER__HEALTH_FILE=/tmp/" in line for line in final), "what it reads"
    after_user = final[final.index("USER 10001:10001") + 1 :]
    assert {line.split()[0] for line in after_user} == {"HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_package_lists_are_removed_in_the_layer_that_fetched_them(instructions: list[str]) -> None:
    fetching = [line for line in instructions if "apt-get update" in line]
    assert fetching
    for line in fetching:
        assert "--no-install-recommends" in line
        assert line.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_image_takes_nothing_from_the_clone_but_code_and_pins(instructions: list[str]) -> None:
    copied: set[str] = set()
    for line in instructions:
        if line.startswith("COPY ") and "--from=" not in line:
            copied.update(line.split()[1:-1])
    assert copied == {"producer", "worker", "requirements.txt", "tools/torch-version"}
    assert not [line for line in instructions if line.startswith("ADD ")]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == copied
    assert "**/.env" in rules


def test_image_holds_no_key_and_no_model(instructions: list[str]) -> None:
    set_in_image = "\n".join(line for line in instructions if line.startswith(("ARG ", "ENV ")))
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", set_in_image)
    text = DOCKERFILE.read_text()
    assert not re.search(r"hf download|snapshot_download|safetensors|git clone|\bcurl\b", text)


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str, services: dict[str, dict[str, Any]]) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    opened = {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"}
    assert not opened & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_service_keeps_data_in_named_volumes_only(
    name: str, services: dict[str, dict[str, Any]]
) -> None:
    declared = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    sources = {volume.split(":")[0] for volume in services[name]["volumes"]}
    assert sources
    assert sources <= declared
    for mount in services[name].get("tmpfs", []):
        assert re.fullmatch(r"/tmp:size=\d+[mg],mode=1777,noexec,nosuid,nodev", mount)


def test_published_ports_answer_on_the_loopback_address_only(
    services: dict[str, dict[str, Any]],
) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_server_images_are_pinned_to_a_version(services: dict[str, dict[str, Any]]) -> None:
    assert services["valkey"]["image"] == "valkey/valkey:9.1-alpine"
    assert services["s3"]["image"] == "chrislusf/seaweedfs:4.48"


def test_valkey_asks_for_a_password_and_forgets_nothing(
    services: dict[str, dict[str, Any]],
) -> None:
    valkey = services["valkey"]
    flags = dict(zip(valkey["command"][1::2], valkey["command"][2::2], strict=True))
    assert valkey["command"][0] == "valkey-server"
    assert flags["--appendonly"] == "yes"
    assert flags["--appendfsync"] == "everysec"
    assert flags["--maxmemory-policy"] == "noeviction"
    assert flags["--requirepass"].startswith("${VALKEY_PASSWORD:?")
    assert valkey["user"] == "valkey"
    assert "valkey-cli ping" in valkey["healthcheck"]["test"][1]


def test_store_gets_keys_and_bucket_from_the_environment(
    services: dict[str, dict[str, Any]],
) -> None:
    store = services["s3"]
    assert store["command"][0] == "mini"
    assert "-admin.ui=false" in store["command"]  # it has no password of its own
    environment = store["environment"]
    assert environment["AWS_ACCESS_KEY_ID"].startswith("${VISIONQ_STORAGE__ACCESS_KEY:?")
    assert environment["AWS_SECRET_ACCESS_KEY"].startswith("${VISIONQ_STORAGE__SECRET_KEY:?")
    worker_bucket = services["worker"]["environment"]["VISIONQ_STORAGE__BUCKET"]
    assert environment["S3_BUCKET"] == worker_bucket
    assert store["healthcheck"]["test"][-1].endswith(":8333/healthz")


def test_worker_can_be_scaled(services: dict[str, dict[str, Any]]) -> None:
    assert not {"container_name", "hostname", "ports"} & set(services["worker"])


def test_worker_waits_for_healthy_servers_and_may_finish_its_work(
    services: dict[str, dict[str, Any]],
) -> None:
    worker = services["worker"]
    assert worker["depends_on"] == {
        "valkey": {"condition": "service_healthy"},
        "s3": {"condition": "service_healthy"},
    }
    assert worker["stop_grace_period"] == "2m"
    assert worker["tmpfs"][0].startswith("/tmp:")


def test_worker_is_built_from_this_clone(services: dict[str, dict[str, Any]]) -> None:
    build = services["worker"]["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKERFILE
    assert build["args"] == {"WITH_FLASH_ATTN": "${WITH_FLASH_ATTN:-0}"}


def test_worker_reserves_one_gpu_and_has_limits(services: dict[str, dict[str, Any]]) -> None:
    resources = services["worker"]["deploy"]["resources"]
    (device,) = resources["reservations"]["devices"]
    assert device == {
        "driver": "nvidia",
        "device_ids": ["${WORKER_GPU:-0}"],
        "capabilities": ["gpu"],
    }
    assert set(resources["limits"]) == {"memory", "pids"}


def test_worker_is_configured_by_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    environment = services["worker"]["environment"]
    assert set(environment) == WORKER_SETTINGS
    for name in environment:
        parts = re.fullmatch(r"VISIONQ_([A-Z]+)__([A-Z]+(?:_[A-Z]+)*)", name)
        assert parts, name
        section = Settings.model_fields[parts[1].lower()].default
        assert parts[2].lower() in type(section).model_fields, name


def test_every_visionq_variable_has_section_and_key() -> None:
    used = re.findall(r"VISIONQ_\w+", COMPOSE.read_text() + ENV_EXAMPLE.read_text())
    assert set(used) >= WORKER_SETTINGS
    assert [name for name in used if not re.fullmatch(r"VISIONQ_[A-Z]+__[A-Z_]+[A-Z]", name)] == []


def test_model_revision_is_a_full_commit(services: dict[str, dict[str, Any]]) -> None:
    revision = VARIABLE.fullmatch(services["worker"]["environment"]["VISIONQ_MODEL__REVISION"])
    assert revision
    assert re.fullmatch(r"[0-9a-f]{40}", revision["rest"])


def test_secrets_are_demanded_and_have_no_default() -> None:
    kinds: dict[str, set[str | None]] = {}
    for found in VARIABLE.finditer(COMPOSE.read_text()):
        kinds.setdefault(found["name"], set()).add(found["kind"])
    assert {name for name, kind in kinds.items() if "?" in kind} == SECRETS
    assert {name for name, kind in kinds.items() if "-" in kind} == set(kinds) - SECRETS


def test_env_example_names_every_variable_with_its_default() -> None:
    defaults = {found["name"]: "" for found in VARIABLE.finditer(COMPOSE.read_text())}
    for found in VARIABLE.finditer(COMPOSE.read_text()):
        if found["kind"] == "-":
            defaults[found["name"]] = found["rest"]
    lines = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", ENV_EXAMPLE.read_text(), re.MULTILINE)
    assert dict(lines) == defaults
    assert {name for name, value in lines if value == ""} == SECRETS


def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("there is no docker client on this machine")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("the docker client of this machine has no compose plugin")
    filled = tmp_path / "filled.env"
    filled.write_text("".join(f"{name}=abc123\n" for name in sorted(SECRETS)))
    command = [docker, "compose", "--file", str(COMPOSE), "--env-file", str(filled)]
    run = subprocess.run([*command, "config", "--quiet"], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.returncode == 0
