"""The settings of both sides: one file, `settings.toml`, then the environment, then flags.

Every key has its default here, and its default, unit and meaning in the repository's
settings.toml. `VISIONQ_BROKER__URL` in the environment is `url` under `[broker]`. An unknown key
or a bad value stops the program at start and names the key. Nothing is read at import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from visionq.broker_urls import SCHEMES, BrokerAddress
from visionq.errors import SettingsError
from visionq.kinds import BUILTIN_KINDS, Kind
from visionq.names import INPUT_FOLDER, Names
from visionq.objects import StoreAddress

ENV_PREFIX = "VISIONQ_"
ENV_NESTED = "__"
FILE_VARIABLE = "VISIONQ_SETTINGS"
"""Names the settings file; without it `settings.toml` of the working folder, if there is one."""

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
HostName = Annotated[str, Field(pattern=r"^\.?[a-z0-9][a-z0-9.-]{0,252}$")]
# Pillow opens forty, some by running other programs; of these it is known what they take of memory.
ImageFormat = Literal["JPEG", "PNG", "WEBP", "PDF", "HEIF", "GIF", "TIFF", "BMP"]
Port = Annotated[int, Field(ge=1, le=65_535)]
QueueName = Annotated[str, Field(pattern=r"^[\w.:@/{}-]{1,200}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


def _from_json(value: Any) -> Any:
    """A list in the environment is JSON. What is none is left to be refused by its key's name."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


# NoDecode: pydantic-settings would name the section only when the JSON is bad.
_FROM_ENVIRONMENT = (NoDecode, BeforeValidator(_from_json))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BrokerSettings(_Section):
    """Redis or Valkey: the queue, the records, and Celery's own results."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    sentinel_user: str | None = None
    sentinel_password: SecretStr | None = None
    namespace: Name = "visionq"
    hash_tag: bool = False
    timeout_seconds: Seconds = 2.0
    record_ttl_seconds: int = Field(default=7 * 24 * 3600, ge=60)
    lease_seconds: float = Field(default=15.0, ge=1, le=3600)
    max_attempts: int = Field(default=5, ge=1, le=1000)
    max_waiting: int = Field(default=100_000, ge=1)
    max_waiting_per_tenant: int | None = Field(default=None, ge=1)
    replicas_to_confirm: int = Field(default=0, ge=0, le=100)
    insist: bool = False

    @field_validator("url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value().partition("://")[0] not in SCHEMES:
            raise ValueError(f"must start with one of {', '.join(SCHEMES)} and ://")
        return url

    @model_validator(mode="after")
    def _has_one_database(self) -> Self:
        if self.hash_tag:
            self.address()
        return self

    def address(self) -> BrokerAddress:
        address = BrokerAddress(
            self.url.get_secret_value(),
            tls_ca_file=self.tls_ca_file,
            tls_cert_file=self.tls_cert_file,
            tls_key_file=self.tls_key_file,
            sentinel_user=self.sentinel_user,
            sentinel_password=_reveal(self.sentinel_password),
            hash_tag=self.hash_tag,
        )
        return address.for_namespace(self.namespace)

    def names(self) -> Names:
        return Names(self.namespace, hash_tag=self.hash_tag)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


class StorageSettings(_Section):
    """The S3-compatible store of inputs and results."""

    bucket: Name = "visionq"
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^/]+")
    region: str = "us-east-1"
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    timeout_seconds: Seconds = 10.0
    image_prefixes: Annotated[tuple[str, ...], *_FROM_ENVIRONMENT] = (f"{INPUT_FOLDER}/",)
    allowed_buckets: Annotated[tuple[Name, ...], *_FROM_ENVIRONMENT] = ()

    @model_validator(mode="after")
    def _is_address(self) -> Self:
        self.address()
        return self

    def address(self) -> StoreAddress:
        return StoreAddress(
            bucket=self.bucket,
            endpoint_url=self.endpoint_url,
            region=self.region,
            access_key=_reveal(self.access_key),
            secret_key=_reveal(self.secret_key),
        )


class WorkerSettings(_Section):
    """One worker process: how much it takes at once, and how it ends."""

    concurrency: int = Field(default=80, ge=1, le=1024)
    preparing: int | None = Field(default=None, ge=1, le=256)
    bulk_share: float = Field(default=0.1, ge=0, le=1)
    progress_seconds: Seconds = 0.5
    retry_seconds: Seconds = 5.0
    reuse: bool = True
    canvas_queues: Annotated[tuple[QueueName, ...], *_FROM_ENVIRONMENT] = ()
    grace_seconds: Seconds = 25.0
    health_file: Path | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class ModelSettings(_Section):
    """Which weights, and how they are run."""

    source: str = "microsoft/Phi-3.5-vision-instruct"
    revision: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "flash", "varlen", "triton", "sdpa"] = "auto"
    max_context_tokens: int = Field(default=16_384, ge=64, le=131_072)


class EngineSettings(_Section):
    """How many requests run together on the device, and what they may take of it."""

    max_running: int = Field(default=64, ge=1, le=1024)
    step_tokens: int = Field(default=2_048, ge=16, le=131_072)
    page_tokens: int = Field(default=256, ge=16, le=4_096)
    cache_bytes: int | None = Field(default=None, ge=1_048_576)
    memory_fraction: float = Field(default=0.9, gt=0, lt=1)
    prefix_cache: bool = True
    feature_cache_bytes: int = Field(default=1_073_741_824, ge=0)
    cuda_graphs: bool = True
    hang_seconds: Seconds = 120.0
    cpu_threads: int | None = Field(default=None, ge=1, le=1024)
    cpu_wait: Literal["passive", "active"] = "passive"

    @field_validator("page_tokens")
    @classmethod
    def _is_power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two")
        return value


class LimitSettings(_Section):
    """What an image may be before it is opened."""

    max_image_bytes: int = Field(default=50 * 1024 * 1024, ge=1024)
    # Pillow refuses more than its own limit, twice 89,478,485, before ours is asked.
    max_image_pixels: int = Field(default=40_000_000, ge=1, le=178_956_970)
    image_formats: Annotated[tuple[ImageFormat, ...], *_FROM_ENVIRONMENT] = (
        "JPEG",
        "PNG",
        "WEBP",
        "PDF",
    )
    decoding: Literal["fast", "exact"] = "fast"
    max_decode_bytes: int = Field(default=240 * 1024 * 1024, ge=32 * 1024 * 1024)
    free_questions: bool = True


class UrlSettings(_Section):
    """Images behind https URLs, and which."""

    allowed: bool = False
    hosts: Annotated[tuple[HostName, ...], *_FROM_ENVIRONMENT] = ()
    ports: Annotated[tuple[Port, ...], *_FROM_ENVIRONMENT] = (443,)
    max_redirects: int = Field(default=3, ge=0, le=10)
    timeout_seconds: Seconds = 20.0


class Settings(BaseSettings):
    """All settings, checked. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_NESTED,
        nested_model_default_partial_update=True,
    )

    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    worker: WorkerSettings = WorkerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()
    urls: UrlSettings = UrlSettings()
    # After `limits`, which may forbid questions.
    kinds: dict[KindName, Kind] = Field(
        default_factory=lambda: dict(BUILTIN_KINDS), validate_default=True
    )

    @model_validator(mode="after")
    def _has_one_slot(self) -> Self:
        """A worker publishes to these queues, and a cluster takes them on another node."""
        names = self.broker.names()
        for queue in self.worker.canvas_queues if self.broker.hash_tag else ():
            if not names.share_slot_with(queue):
                raise ValueError(
                    f"worker.canvas_queues: {queue} has another slot than the rest with "
                    f"broker.hash_tag; its name must begin with {names.prefix}"
                )
        return self

    @field_validator("kinds", mode="before")
    @classmethod
    def _merge_kinds(cls, given: Any) -> Any:
        """A `[kinds.ocr]` with one key changes that key and keeps the rest."""
        if not isinstance(given, Mapping):
            return given
        merged: dict[str, Any] = {name: asdict(kind) for name, kind in BUILTIN_KINDS.items()}
        for name, changes in given.items():
            changed = asdict(changes) if isinstance(changes, Kind) else changes
            is_table = isinstance(changed, Mapping)
            merged[name] = {**merged.get(name, {}), **changed} if is_table else changed
        return merged

    @field_validator("kinds", mode="after")
    @classmethod
    def _forbid_questions(cls, kinds: dict[str, Kind], info: ValidationInfo) -> dict[str, Kind]:
        limits = info.data.get("limits")
        if limits is None or limits.free_questions:
            return kinds
        return {name: replace(kind, takes_question=False) for name, kind in kinds.items()}


def load_settings(path: Path | str | None = None, /, **flags: Mapping[str, Any]) -> Settings:
    """The settings of file, environment and flags, the later winning key by key.

    `flags` are sections: `load_settings(broker={"url": ...})`; a value of None is unset. Raises
    `SettingsError` with one line per wrong key.
    """
    _check_arguments(path, flags)
    file = _find_file(path)
    _refuse_unknown_variables()

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    given = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in flags.items()
    }
    try:
        return cast("type[Settings]", FromFile)(**cast("dict[str, Any]", given))
    except ValidationError as exc:
        # Without its cause, which shows the value: perhaps a URL with its password.
        raise SettingsError(_explain(exc, file)) from None
    except ValueError as exc:
        raise SettingsError(f"{file}: {exc}") from exc


def _check_arguments(path: object, flags: Mapping[str, object]) -> None:
    if path is not None and not (isinstance(path, str | Path) and "\0" not in str(path)):
        raise SettingsError("the path of a settings file is a string or a Path")
    for section, values in flags.items():
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise SettingsError(f"{section}: must be a mapping of keys to values")


def _find_file(path: Path | str | None) -> Path | None:
    named = path or os.environ.get(FILE_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"there is no settings file {named}")
        return Path(named)
    default = Path("settings.toml")
    return default if default.is_file() else None


def _refuse_unknown_variables() -> None:
    """pydantic-settings ignores a misspelt section in the environment; an operator would not."""
    for name in os.environ:
        if not name.startswith(ENV_PREFIX) or name == FILE_VARIABLE:
            continue
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition(ENV_NESTED)
        if section not in Settings.model_fields or not key:
            raise SettingsError(
                f"{name}: no such setting; the form is {ENV_PREFIX}<SECTION>{ENV_NESTED}<KEY>, "
                f"with the sections {', '.join(Settings.model_fields)}"
            )


def _explain(exc: ValidationError, file: Path | None) -> str:
    where = f"{file}, environment or flags" if file else "environment or flags"
    lines = [
        f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
        for error in exc.errors(include_url=False, include_input=False, include_context=False)
    ]
    return f"bad settings ({where}): " + "; ".join(lines)
