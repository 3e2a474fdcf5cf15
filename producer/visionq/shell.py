"""What the commands of `visionq` share: where they talk to, their exit codes, their options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from visionq.client import Client
from visionq.dead import DeadLetters
from visionq.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    InvalidTask,
    SettingsError,
    StorageError,
    TaskFailed,
    TaskNotDone,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
)
from visionq.fields import read_field
from visionq.settings import FILE_VARIABLE, Settings, load_settings

EXIT_NO_ANSWER = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNKNOWN = 4
EXIT_UNREACHABLE = 5

_EXIT_CODES: tuple[tuple[type[VisionqError], int], ...] = (
    (TaskUnknown, EXIT_UNKNOWN),
    (TaskNotDone, EXIT_NO_ANSWER),
    (InvalidTask, EXIT_USAGE),
    (IdempotencyConflict, EXIT_USAGE),
    (SettingsError, EXIT_USAGE),
    (WaitTimeout, EXIT_TIMEOUT),
    (BrokerUnavailable, EXIT_UNREACHABLE),
    (StorageError, EXIT_UNREACHABLE),
    (VisionqError, EXIT_NO_ANSWER),
)

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """The options given before the command, and the client they lead to."""

    def __init__(self, file: Path | None, state_folder: Path | None) -> None:
        from visionq.up import default_state_folder

        self.file = file
        self.state_folder = state_folder or default_state_folder()
        self._is_local_wanted = state_folder is not None

    def client(self) -> Client:
        return Client.from_settings(self._settings())

    def dead_letters(self) -> DeadLetters:
        return DeadLetters.from_settings(self._settings())

    def _settings(self) -> Settings:
        """For the servers of `visionq up` when they run and nothing else was named."""
        return load_settings(self.file, **self._local_flags())

    def _local_flags(self) -> dict[str, dict[str, str]]:
        from visionq.local import read_urls
        from visionq.up import settings_flags

        is_elsewhere = self.file or os.environ.get(FILE_VARIABLE)
        if not self._is_local_wanted and (is_elsewhere or "VISIONQ_BROKER__URL" in os.environ):
            return {}
        urls = read_urls(self.state_folder)
        if urls is None and self._is_local_wanted:
            raise BrokerUnavailable(f"no `visionq up` runs with the folder {self.state_folder}")
        return {} if urls is None else settings_flags(urls)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Our errors as one line and an exit code, as JSON where the command speaks JSON."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except VisionqError as error:
            if kwargs.get("as_json"):
                print_json(_explained(error))
            else:
                click.echo(f"visionq: {error}", err=True)
            sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))

    return run


def _explained(error: VisionqError) -> dict[str, Any]:
    explained: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, InvalidTask | TaskFailed):
        explained["code"] = error.code
    if isinstance(error, IdempotencyConflict):
        return explained | {"task_id": error.task_id}
    if isinstance(error, TaskFailed):
        return explained | {"retryable": error.retryable}
    return explained


def print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), help="Seconds to wait; default: for ever."
)


def read_fields(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> Any:
    """The names and types that the options give; None without any."""
    try:
        return dict(read_field(text) for text in given) or None
    except InvalidTask as exc:
        raise click.BadParameter(str(exc)) from exc


def read_schema(_context: click.Context, _option: click.Parameter, file: Path | None) -> Any:
    """The JSON in the file that the option names."""
    if file is None:
        return None
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise click.BadParameter(f"{file.name} cannot be read as JSON: {exc}") from exc


schema_option = click.option(
    "--schema",
    type=click.Path(path_type=Path),
    callback=read_schema,
    help="File with the JSON Schema that the answer has to fit.",
)
field_option = click.option(
    "--field",
    "fields",
    multiple=True,
    callback=read_fields,
    metavar="NAME[:TYPE]",
    help="A field to be read: str, int, float or bool. May be repeated; instead of --schema.",
)
