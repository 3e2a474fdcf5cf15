"""`visionq`: submit tasks and look at them from a shell; run everything on one machine.

Exit codes: 0 done, 1 the task has no answer (failed, revoked, expired) or is not to be replayed,
2 wrong usage, settings or task, 3 the time to wait is up, 4 no such task or dead letter, 5 not now:
Redis or the object store cannot be reached, or the queue is full.
"""

from __future__ import annotations

import json
import os
import shlex
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
from visionq.errors import StorageError
from visionq.kinds import Kind
from visionq.progress import ProgressLine, describe, follow
from visionq.reconcile_command import reconcile
from visionq.settings import ENV_PREFIX, FILE_VARIABLE, Settings, load_settings
from visionq.shell import (
    EXIT_NO_ANSWER,
    EXIT_UNKNOWN,
    Session,
    field_option,
    json_option,
    label_option,
    print_json,
    reported,
    say,
    say_none,
    schema_option,
    timeout_option,
)
from visionq.terminal import one_line
from visionq.usage import Program, refuse_question_among, settings_option, state_option


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="visionq")
@settings_option
@state_option
@click.pass_context
def main(context: click.Context, file: Path | None, state_folder: Path | None) -> None:
    """Image questions through a queue, answered by a vision-language model.

    Commands talk to what the settings name, or to a running `visionq up`. Exit codes: 0 done,
    1 no answer (failed, revoked, expired) or no replay, 2 wrong usage, settings or task, 3 time is
    up, 4 no such task or dead letter, 5 not now: Redis or the object store cannot be reached, or
    the queue is full.
    """
    context.obj = Session(file, state_folder)


main.add_command(dead)
main.add_command(reconcile)


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
    from visionq import env_file
    from visionq.up import running_service, settings_environment

    flags = [f"--model={model}"] if model else []
    flags += [f"--device={device}"] if device else []
    # What is wrong there is said once and here, not by each worker.
    settings = load_settings(session.file, model={"source": model, "device": device})
    stopped = threading.Event()
    # The last one is the closing of our terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    with (
        running_service(
            session.state_folder,
            num_workers=num_workers,
            worker_flags=flags,
            settings_file=session.file,
        ) as service,
        env_file.written(
            session.state_folder,
            _environment(session, settings) | settings_environment(service.urls),
        ) as env,
    ):
        where = {"broker": service.urls.broker_address, "s3": service.urls.s3_endpoint}
        if as_json:
            print_json(where | {"state": str(session.state_folder), "env": str(env)})
        else:
            say(f"Valkey at {where['broker']}, S3 at {where['s3']}. Ctrl-C stops all.")
            plural = "" if num_workers == 1 else "s"
            say(f"{num_workers} worker{plural} starting with the model {settings.model.source}.")
            say("In another terminal, for the commands and for Python (Client.from_settings()):")
            for line in (*_activation(), f"source {shlex.quote(str(env))}"):
                say(f"  {line}")
        while not stopped.wait(1.0):
            service.check()


def _environment(session: Session, settings: Settings) -> dict[str, str]:
    """What makes another process read the settings that the workers have."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
    file = session.file or Path(os.environ.get(FILE_VARIABLE) or "settings.toml")
    if file.is_file():
        ours[FILE_VARIABLE] = str(file.absolute())
    source = settings.model.source
    is_folder = Path(source).is_dir()
    ours["VISIONQ_MODEL__SOURCE"] = str(Path(source).absolute()) if is_folder else source
    ours["VISIONQ_MODEL__DEVICE"] = settings.model.device
    return ours


def _activation() -> list[str]:
    """The line that activates this Python's virtual environment, if it is one."""
    script = Path(sys.prefix) / "bin" / "activate"
    is_environment = sys.prefix != sys.base_prefix and script.is_file()
    return [f"source {shlex.quote(str(script))}"] if is_environment else []


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
@click.option("--start-in-seconds", type=float, help="Not to be started before that.")
@click.option("--expires-in-seconds", type=float, help="No answer is wanted after that.")
@click.option("--tenant", default="default", show_default=True)
@label_option
@click.option(
    "--reuse/--no-reuse",
    default=True,
    show_default=True,
    help="Whether the answer of a task that asked the same will do.",
)
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
    refuse_question_among(images, question)
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
    refuse_question_among(images, question)
    with session.client() as client:
        found = client.estimate(kind, list(images), question, **options)
    if as_json:
        print_json(asdict(found))
        return
    figures = {name: _figure(value) for name, value in asdict(found).items()}
    if not found.has_workers:
        figures["has_workers"] = "no: `visionq up` or `visionq-worker run` starts one"
    for name, figure in figures.items():
        say(f"{name:<18} {figure}")


def _figure(value: Any) -> str:
    """A figure of an estimate: as exact as it is known."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    return " + ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@main.command()
@click.argument("task_ids", nargs=-1, required=True)
@json_option
@click.pass_obj
@reported
def status(session: Session, task_ids: tuple[str, ...], as_json: bool) -> None:
    """Say where tasks are; the store is asked about those without a record."""
    is_any_unknown, unasked = False, None
    with session.client() as client:
        for one in client.status_many(task_ids):
            if not one.is_known and unasked is not None:
                continue
            try:
                found = one if one.is_known else client.status(one.id)
            except StorageError as error:
                unasked = error  # the others are printed all the same
                continue
            _print_status(found, as_json=as_json)
            is_any_unknown = is_any_unknown or not found.is_known
    if unasked is not None:
        raise unasked
    if is_any_unknown:
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
        say(state)
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

    try:
        sys.exit(call_worker(*session.as_arguments(), "render", *arguments))
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
        found = client.recent(limit)
    for one in found:
        _print_status(one, as_json=as_json)
    if not found and not as_json:
        say_none()


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
            say(one_line(f"{name:<10} {_described(kind)}"))


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
    elif _has_boxes(answer):
        _print_boxes(answer)
    elif answer.text is not None:
        say(answer.text)
    else:
        say(json.dumps(answer.value, ensure_ascii=False))


def _has_boxes(answer: Result) -> bool:
    """Whether the value is that of the parser `boxes`: none that a schema has asked for."""
    if not isinstance(answer.value, list) or answer.provenance.schema_digest is not None:
        return False
    return all(isinstance(one, dict) and {"label", "box"} <= one.keys() for one in answer.value)


def _print_boxes(answer: Result) -> None:
    """The value, whose edges are of the picture; in the text they are parts of a thousand."""
    is_page = any(page is not None for page in answer.provenance.input_pages[:1])
    say(f"left top right bottom, in {'points of the page' if is_page else 'pixels'}")
    for one in answer.value:
        edges = " ".join(map(str, one["box"]))
        score = f" ({one['score']:.2f})" if "score" in one else ""
        say(one_line(f"{edges} {one['label']}{score}"))
    if not answer.value:
        say_none()


def _print_status(one: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(one))
    else:
        say(one_line(f"{one.id} {one.kind or '-':<8} {describe(one)}"))
