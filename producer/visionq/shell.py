"""What the commands of `visionq` share: where they talk to, their exit codes, their options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from visionq.client import Client
from visionq.dead import DeadLetters
from visionq.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    InvalidArgument,
    InvalidTask,
    QueueFull,
    SettingsError,
    StorageError,
    TaskFailed,
    TaskNotDone,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
)
from visionq.fields import read_field
from visionq.reconciling import StoreComparison
from visionq.settings import ENV_NESTED, ENV_PREFIX, FILE_VARIABLE, Settings, load_settings
from visionq.terminal import json_text, one_line, printable
from visionq.usage import Amount

EXIT_NO_ANSWER = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNKNOWN = 4
EXIT_NOT_NOW = 5

_EXIT_CODES: tuple[tuple[type[VisionqError], int], ...] = (
    (TaskUnknown, EXIT_UNKNOWN),
    (TaskNotDone, EXIT_NO_ANSWER),
    (InvalidTask, EXIT_USAGE),
    (IdempotencyConflict, EXIT_USAGE),
    (SettingsError, EXIT_USAGE),
    (InvalidArgument, EXIT_USAGE),
    (WaitTimeout, EXIT_TIMEOUT),
    (BrokerUnavailable, EXIT_NOT_NOW),
    (QueueFull, EXIT_NOT_NOW),
    (StorageError, EXIT_NOT_NOW),
    (VisionqError, EXIT_NO_ANSWER),
)

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """The options given before the command, and the settings and client they lead to."""

    def __init__(self, file: Path | None, state_folder: Path | None) -> None:
        self.file = file
        self.is_state_named = state_folder is not None
        self._named_folder = state_folder

    def having(self, *, file: Path | None = None, state_folder: Path | None = None) -> Session:
        """This one with that in its place."""
        return Session(file or self.file, state_folder or self._named_folder)

    @property
    def state_folder(self) -> Path:
        """Raises `SettingsError` where none is named and this user has no home."""
        from visionq.up import default_state_folder

        try:
            return self._named_folder or default_state_folder()
        except RuntimeError as exc:
            raise SettingsError(f"no state folder: {exc}; name one by --state") from exc

    def client(self) -> Client:
        return Client.from_settings(self.settings())

    def dead_letters(self) -> DeadLetters:
        return DeadLetters.from_settings(self.settings())

    def store_comparison(self) -> StoreComparison:
        return StoreComparison.from_settings(self.settings())

    def settings(self, **flags: Mapping[str, Any]) -> Settings:
        """Of `visionq up`, if it runs and nothing else was named; the flags come first.

        That is its servers, and what its workers go by beside that. Raises `SettingsError`, and
        `BrokerUnavailable` when nothing runs in the state folder that was named.
        """
        told = self._told()
        sections = _as_sections(told)
        for section, values in flags.items():
            given = {key: value for key, value in values.items() if value is not None}
            sections[section] = sections.get(section, {}) | given
        return load_settings(self.file or told.get(FILE_VARIABLE), **sections)

    def as_arguments(self) -> list[str]:
        """The same options, for the worker's command."""
        arguments = ["--settings", str(self.file)] if self.file else []
        return arguments + (["--state", str(self.state_folder)] if self.is_state_named else [])

    def _told(self) -> dict[str, str]:
        """The variables that lead to `visionq up`; none where something else is meant."""
        from visionq import env_file
        from visionq.local import read_urls
        from visionq.up import settings_environment

        is_elsewhere = self.file or os.environ.get(FILE_VARIABLE)
        if not self.is_state_named and (is_elsewhere or "VISIONQ_BROKER__URL" in os.environ):
            return {}
        try:
            folder = self.state_folder
        except SettingsError:
            return {}  # as in a container, where the user is a mere number
        urls = read_urls(folder)
        if urls is None and self.is_state_named:
            raise BrokerUnavailable(f"no `visionq up` runs with the folder {folder}")
        if urls is None:
            return {}
        told = env_file.read(folder)
        if not self.is_state_named:
            told = {name: value for name, value in told.items() if name not in os.environ}
        return told | settings_environment(urls)


def _as_sections(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Variables of the environment as the flags of `load_settings`."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in variables.items():
        if name == FILE_VARIABLE:
            continue
        *tables, key = name.removeprefix(ENV_PREFIX).lower().split(ENV_NESTED)
        table: dict[str, Any] = sections
        for one in tables:
            table = table.setdefault(one, {})
        table[key] = value
    return sections


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
                say(f"visionq: {one_line(str(error))}", err=True)
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
    click.echo(json_text(value))


def say(text: str, *, err: bool = False) -> None:
    """Print for people: nothing in it can command their terminal."""
    click.echo(printable(text), err=err)


def say_none() -> None:
    """In place of an empty listing."""
    say("none")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
timeout_option = click.option(
    "--timeout", type=Amount(), help="Seconds to wait; default: for ever."
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


def read_labels(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> Any:
    """Names and values; None without any."""
    labels: dict[str, str] = {}
    for text in given:
        name, is_pair, value = text.partition("=")
        if not is_pair or name in labels:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE with a name of its own")
        labels[name] = value
    return labels or None


label_option = click.option(
    "--label",
    "labels",
    multiple=True,
    callback=read_labels,
    metavar="NAME=VALUE",
    help="Kept with the task and its result. May be repeated.",
)
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
