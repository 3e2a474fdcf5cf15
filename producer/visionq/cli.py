"""`visionq`: submit tasks and look at them from a shell; run everything on one machine.

Exit codes: 0 done, 1 the task has no answer (failed, revoked, expired) or is not to be replayed,
2 wrong usage, settings or task, 3 the time to wait is up, 4 no such task or dead letter, 5 Redis or
the object store cannot be reached.
"""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from visionq.client import TaskHandle
from visionq.contract import Result, State, Status
from visionq.dead_commands import dead
from visionq.kinds import Kind
from visionq.progress import ProgressLine, describe, follow
from visionq.settings import load_settings
from visionq.shell import (
    EXIT_NO_ANSWER,
    EXIT_UNKNOWN,
    Session,
    field_option,
    json_option,
    print_json,
    reported,
    schema_option,
    timeout_option,
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


main.add_command(dead)


@main.command()
@click.option("--model", help="Hub id or local folder; 'pocket' is shipped.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option("--workers", "num_workers", type=click.IntRange(1, 64), default=1, show_default=True)
@json_option
@click.pass_obj
@reported
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
            print_json(where | {"state": str(session.state_folder)})
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
@schema_option
@field_option
@click.option("--lane", default="interactive", show_default=True, help="interactive or bulk.")
@click.option("--expires-in-seconds", type=float, help="No answer is wanted after that.")
@click.option("--tenant", default="default", show_default=True)
@click.option("--idempotency-key", help="The same key is the same task.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait, and print the answer.")
@timeout_option
@json_option
@click.pass_obj
@reported
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
            print_json({"id": handle.id, "result_key": handle.result_key})
        else:
            click.echo(handle.id)


@main.command()
@click.argument("kind")
@click.argument("images", nargs=-1, required=True)
@click.option("-q", "--question", help="What to ask; kinds have a default.")
@click.option("--max-new-tokens", type=int, help="Tokens of the answer, at most.")
@click.option("--num-crops", type=int, help="336-pixel tiles per image, at most.")
@schema_option
@field_option
@click.option("--lane", default="interactive", show_default=True, help="interactive or bulk.")
@json_option
@click.pass_obj
@reported
def estimate(
    session: Session,
    /,
    kind: str,
    images: tuple[str, ...],
    question: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a task about IMAGES (paths, keys, s3:// URLs) would cost; submit nothing."""
    with session.client() as client:
        found = client.estimate(kind, list(images), question, **options)
    if as_json:
        print_json(asdict(found))
        return
    for name, value in asdict(found).items():
        said = " + ".join(map(str, value)) if isinstance(value, tuple) else value
        click.echo(f"{name:<18} {'unknown' if said is None else said}")


@main.command()
@click.argument("task_ids", nargs=-1, required=True)
@json_option
@click.pass_obj
@reported
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
@timeout_option
@json_option
@click.pass_obj
@reported
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
@timeout_option
@json_option
@click.pass_obj
@reported
def result(session: Session, task_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait for a task and print its answer."""
    with session.client() as client:
        _print_result(_awaited(client.task(task_id), timeout), as_json=as_json)


@main.command()
@click.argument("task_id")
@json_option
@click.pass_obj
@reported
def cancel(session: Session, task_id: str, as_json: bool) -> None:
    """Revoke a waiting task, ask a running one to stop."""
    with session.client() as client:
        state = client.cancel(task_id)
    if as_json:
        print_json({"id": task_id, "state": str(state)})
    else:
        click.echo(state)
    if state is State.UNKNOWN:
        sys.exit(EXIT_UNKNOWN)


@main.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True}, options_metavar=""
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="KIND IMAGES... [OPTIONS]")
@click.pass_obj
@reported
def render(session: Session, arguments: tuple[str, ...]) -> None:
    """Show the prompt of a task and its tokens, without a queue (visionq-worker render)."""
    from visionq.up import WorkerMissing, call_worker

    settings = ["--settings", str(session.file)] if session.file else []
    try:
        sys.exit(call_worker(*settings, "render", *arguments))
    except WorkerMissing as missing:
        raise click.UsageError(str(missing)) from missing


@main.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@click.pass_obj
@reported
def list_tasks(session: Session, limit: int, as_json: bool) -> None:
    """List tasks that still have a record, newest first."""
    with session.client() as client:
        for one in client.recent(limit):
            _print_status(one, as_json=as_json)


@main.command("kinds")
@json_option
@click.pass_obj
@reported
def list_kinds(session: Session, as_json: bool) -> None:
    """List the kinds of task that the settings know, with their parameters."""
    for name, kind in load_settings(session.file).kinds.items():
        if as_json:
            print_json({"name": name, "digest": kind.digest()} | asdict(kind))
        else:
            click.echo(f"{name:<10} {_described(kind)}")


def _described(kind: Kind) -> str:
    is_exact = kind.min_images == kind.max_images
    images = str(kind.min_images) if is_exact else f"{kind.min_images}-{kind.max_images}"
    question = "no question" if not kind.takes_question else "a question, or its own"
    if kind.takes_question and kind.default_question is None:
        question = "a question"
    parts = [
        f"v{kind.version}",
        f"{images} image{'' if images == '1' else 's'}",
        question if "{question}" in kind.prompt else "no question",
        f"{kind.max_new_tokens} tokens",
        kind.parser,
    ]
    if kind.num_crops is not None:
        parts.append(f"{kind.num_crops} crops")
    if kind.retries:
        parts.append(f"{len(kind.retries)} retries")
    return ", ".join(parts)


def _awaited(handle: TaskHandle, timeout: float | None) -> Result:
    follow(handle, ProgressLine(sys.stderr), timeout)
    return handle.result(0)


def _print_result(answer: Result, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(answer))
    else:
        click.echo(answer.text)


def _print_status(one: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(one))
    else:
        click.echo(f"{one.id} {one.kind or '-':<8} {describe(one)}")
