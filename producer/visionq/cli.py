"""`visionq`: submit tasks and look at them from a shell; run everything on one machine.

Exit codes: 0 done, 1 the task has no answer (failed, revoked, expired) or is not to be replayed,
2 wrong usage, settings or task, 3 the time to wait is up, 4 no such task or dead letter, 5 Redis or
the object store cannot be reached.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from visionq.client import Client, TaskHandle
from visionq.contract import Result, State, Status
from visionq.dead import DeadLetter, DeadLetters, Outcome, Where
from visionq.errors import (
    BrokerUnavailable,
    InvalidTask,
    SettingsError,
    StorageError,
    TaskFailed,
    TaskNotDone,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
)
from visionq.progress import ProgressLine, describe, follow
from visionq.settings import FILE_VARIABLE, Settings, load_settings

EXIT_NO_ANSWER = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNKNOWN = 4
EXIT_UNREACHABLE = 5

SECONDS_PER_DAY = 24 * 3600

_EXIT_CODES: tuple[tuple[type[VisionqError], int], ...] = (
    (TaskUnknown, EXIT_UNKNOWN),
    (TaskNotDone, EXIT_NO_ANSWER),
    (InvalidTask, EXIT_USAGE),
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


def _reported(command: Callable[P, R]) -> Callable[P, R]:
    """Our errors as one line and an exit code, as JSON where the command speaks JSON."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except VisionqError as error:
            if kwargs.get("as_json"):
                _print_json(_explained(error))
            else:
                click.echo(f"visionq: {error}", err=True)
            sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))

    return run


def _explained(error: VisionqError) -> dict[str, Any]:
    explained = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, InvalidTask | TaskFailed):
        explained["code"] = error.code
    if isinstance(error, TaskFailed):
        return explained | {"retryable": error.retryable}
    return explained


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_reason_option = click.option("--reason", help="Those whose reason contains this text.")
_timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), help="Seconds to wait; default: for ever."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--settings",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; default: VISIONQ_SETTINGS, else ./settings.toml.",
)
@click.option(
    "--state",
    "state_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `visionq up`; default: ~/.local/state/visionq.",
)
@click.pass_context
def main(context: click.Context, file: Path | None, state_folder: Path | None) -> None:
    """Image questions through a queue, answered by a vision-language model.

    Commands talk to what the settings name, or to a running `visionq up`. Exit codes: 0 done,
    1 no answer (failed, revoked, expired) or no replay, 2 wrong usage, settings or task, 3 time is
    up, 4 no such task or dead letter, 5 Redis or the object store cannot be reached.
    """
    context.obj = Session(file, state_folder)


@main.command()
@click.option("--model", help="Hub id or local folder; 'tiny' for random weights.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option("--workers", "num_workers", type=click.IntRange(1, 64), default=1, show_default=True)
@_json_option
@click.pass_obj
@_reported
def up(
    session: Session, model: str | None, device: str | None, num_workers: int, as_json: bool
) -> None:
    """Run Valkey, an S3 server and workers here, until Ctrl-C."""
    from visionq.up import running_service

    flags = [f"--model={model}"] if model else []
    flags += [f"--device={device}"] if device else []
    load_settings(session.file)  # what is wrong there is said once and here, not by each worker
    stopped = threading.Event()
    # The last one is the closing of our terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    with running_service(
        session.state_folder,
        num_workers=num_workers,
        worker_flags=flags,
        settings_file=session.file,
    ) as service:
        if as_json:
            where = {"broker": service.urls.broker_address, "s3": service.urls.s3_endpoint}
            _print_json(where | {"state": str(session.state_folder)})
        else:
            click.echo(f"Valkey at {service.urls.broker_address}, S3 at {service.urls.s3_endpoint}")
            click.echo("Other terminals: visionq submit ocr picture.png --wait. Ctrl-C stops all.")
        while not stopped.wait(1.0):
            service.check()


@main.command()
@click.argument("kind")
@click.argument("images", nargs=-1, required=True)
@click.option("-q", "--question", help="What to ask; kinds have a default.")
@click.option("--max-new-tokens", type=int, help="Tokens of the answer, at most.")
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--seed", type=int)
@click.option("--num-crops", type=int, help="336-pixel tiles per image, at most.")
@click.option("--lane", default="interactive", show_default=True, help="interactive or bulk.")
@click.option("--expires-in-seconds", type=float, help="No answer is wanted after that.")
@click.option("--tenant", default="default", show_default=True)
@click.option("--idempotency-key", help="The same key is the same task.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait, and print the answer.")
@_timeout_option
@_json_option
@click.pass_obj
@_reported
def submit(
    session: Session,
    /,
    kind: str,
    images: tuple[str, ...],
    question: str | None,
    is_waiting: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put a task about IMAGES (paths, keys, s3:// URLs) into the queue; print its id."""
    with session.client() as client:
        handle = client.submit(kind, list(images), question, **options)
        if is_waiting:
            click.echo(handle.id, err=True)
            _print_result(_awaited(handle, timeout), as_json=as_json)
        elif as_json:
            _print_json({"id": handle.id, "result_key": handle.result_key})
        else:
            click.echo(handle.id)


@main.command()
@click.argument("task_ids", nargs=-1, required=True)
@_json_option
@click.pass_obj
@_reported
def status(session: Session, task_ids: tuple[str, ...], as_json: bool) -> None:
    """Say where tasks are."""
    with session.client() as client:
        found = client.status_many(task_ids)
    for one in found:
        _print_status(one, as_json=as_json)
    if any(not one.is_known for one in found):
        sys.exit(EXIT_UNKNOWN)


@main.command()
@click.argument("task_id")
@_timeout_option
@_json_option
@click.pass_obj
@_reported
def wait(session: Session, task_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait for a task's end; exit 0 only when it has an answer."""
    with session.client() as client:
        handle = client.task(task_id)
        final = follow(handle, ProgressLine(sys.stderr), timeout)
    _print_status(final, as_json=as_json)
    if final.state is not State.SUCCESS:
        sys.exit(EXIT_NO_ANSWER)


@main.command()
@click.argument("task_id")
@_timeout_option
@_json_option
@click.pass_obj
@_reported
def result(session: Session, task_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait for a task and print its answer."""
    with session.client() as client:
        _print_result(_awaited(client.task(task_id), timeout), as_json=as_json)


@main.command()
@click.argument("task_id")
@_json_option
@click.pass_obj
@_reported
def cancel(session: Session, task_id: str, as_json: bool) -> None:
    """Revoke a waiting task, ask a running one to stop."""
    with session.client() as client:
        state = client.cancel(task_id)
    if as_json:
        _print_json({"id": task_id, "state": str(state)})
    else:
        click.echo(state)
    if state is State.UNKNOWN:
        sys.exit(EXIT_UNKNOWN)


@main.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_json_option
@click.pass_obj
@_reported
def list_tasks(session: Session, limit: int, as_json: bool) -> None:
    """List tasks that still have a record, newest first."""
    with session.client() as client:
        for one in client.recent(limit):
            _print_status(one, as_json=as_json)


@main.group()
def dead() -> None:
    """Messages that nobody could read, and tasks with which too many workers were lost."""


@dead.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_reason_option
@_json_option
@click.pass_obj
@_reported
def list_dead(session: Session, limit: int, reason: str | None, as_json: bool) -> None:
    """List dead letters, newest first: id, queue, when and why."""
    with session.dead_letters() as letters:
        found = letters.list(limit, where=Where(reason=reason))
    for letter in found:
        if as_json:
            _print_json(asdict(letter))
        else:
            click.echo(_described(letter))


@dead.command("show")
@click.argument("letter_id")
@_json_option
@click.pass_obj
@_reported
def show_dead(session: Session, letter_id: str, as_json: bool) -> None:
    """Print a dead letter's message, and what its task's record says."""
    with session.dead_letters() as letters:
        opened = letters.show(letter_id)
    if as_json:
        more = {"state": str(opened.state), "task": opened.task, "text": opened.text}
        _print_json(asdict(opened.letter) | more)
        return
    click.echo(_described(opened.letter))
    click.echo(f"{opened.letter.size} bytes; the task is {opened.state}")
    click.echo(_printable(opened.text))


@dead.command("replay")
@click.argument("letter_ids", nargs=-1)
@_reason_option
@click.option("--all", "is_all", is_flag=True, help="All dead letters.")
@_json_option
@click.pass_obj
@_reported
def replay_dead(
    session: Session, letter_ids: tuple[str, ...], reason: str | None, is_all: bool, as_json: bool
) -> None:
    """Put dead letters back into their queues; a task's is a new attempt under the same id."""
    which = _which(letter_ids, Where(reason=reason), is_all=is_all)
    with session.dead_letters() as letters:
        replayed = letters.replay(which)
    for one in replayed:
        if as_json:
            _print_json(asdict(one) | {"message": one.message})
        else:
            click.echo(f"{one.id} {one.outcome}: {one.message}")
    if any(one.outcome is Outcome.UNKNOWN for one in replayed):
        sys.exit(EXIT_UNKNOWN)
    if any(one.is_refused for one in replayed):
        sys.exit(EXIT_NO_ANSWER)


@dead.command("purge")
@click.argument("letter_ids", nargs=-1)
@_reason_option
@click.option("--older-than", "days", type=click.FloatRange(min=0), help="Days, at the least.")
@click.option("--all", "is_all", is_flag=True, help="All dead letters.")
@click.option("--yes", "is_sure", is_flag=True, help="Needed for letters that are not named.")
@_json_option
@click.pass_obj
@_reported
def purge_dead(
    session: Session,
    letter_ids: tuple[str, ...],
    reason: str | None,
    days: float | None,
    is_all: bool,
    is_sure: bool,
    as_json: bool,
) -> None:
    """Throw dead letters away for good; their tasks' records and results stay."""
    seconds = None if days is None else days * SECONDS_PER_DAY
    which = _which(letter_ids, Where(reason=reason, older_than_seconds=seconds), is_all=is_all)
    if not letter_ids and not is_sure:
        raise click.UsageError("letters that are not named are purged with --yes only")
    with session.dead_letters() as letters:
        purged = dict.fromkeys(letters.purge(which))
    for letter_id in letter_ids or purged:
        outcome = "purged" if letter_id in purged else "unknown"
        if as_json:
            _print_json({"id": letter_id, "outcome": outcome})
        else:
            click.echo(f"{letter_id} {outcome}")
    if not purged.keys() >= set(letter_ids):
        sys.exit(EXIT_UNKNOWN)


def _which(letter_ids: Sequence[str], where: Where, *, is_all: bool) -> Sequence[str] | Where:
    """The letters meant. An empty `--reason`, which all letters have, is not taken for all."""
    is_narrowed = bool(where.reason) or where.older_than_seconds is not None
    if sum((bool(letter_ids), is_narrowed, is_all)) != 1:
        raise click.UsageError("which dead letters: ids, or a filter, or --all?")
    return letter_ids or where


def _described(letter: DeadLetter) -> str:
    when = datetime.fromtimestamp(letter.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _printable(f"{letter.id:<36} {letter.queue} {when} {letter.reason}")


def _printable(text: str) -> str:
    """Anybody may have written it: what a terminal would take for a command is replaced."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _awaited(handle: TaskHandle, timeout: float | None) -> Result:
    follow(handle, ProgressLine(sys.stderr), timeout)
    return handle.result(0)


def _print_result(answer: Result, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(answer))
    else:
        click.echo(answer.text)


def _print_status(one: Status, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(one))
    else:
        click.echo(f"{one.id} {one.kind or '-':<8} {describe(one)}")


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
