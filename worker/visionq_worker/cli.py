"""`visionq-worker`: run a worker, check whether one could run, or show what it would be asked.

Exit codes: 0 done, 1 a check failed or the worker broke down, 2 wrong usage or settings,
3 the worker could not start (it has taken no message), 70 its device hangs or is spoilt, 75 its
connections to Redis stand still although Redis takes writes.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from visionq.errors import BrokerUnavailable, InvalidTask, SettingsError
from visionq.redaction import RedactingFormatter
from visionq.settings import Settings, load_settings
from visionq.shell import Session, print_json, read_fields, read_schema, say
from visionq.submissions import Submission
from visionq.terminal import one_line, printable
from visionq.usage import Program, refuse_question_among, settings_option, state_option
from visionq_worker import __version__
from visionq_worker.errors import StartError, TaskError

if TYPE_CHECKING:
    from visionq.submissions import SubmitOptions

EXIT_USAGE = 2

REPEATS_OUR_LINES = ("celery.app.trace", "celery.worker.strategy")
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@settings_option
@state_option
@click.pass_context
def main(context: click.Context, file: Path | None, state_folder: Path | None) -> None:
    """The GPU worker of visionq."""
    context.obj = Session(file, state_folder)


@main.command()
@click.option("--model", "source", help="Hub id or local folder; 'pocket' is shipped.")
@click.option("--device", help="auto, cpu, cuda, cuda:1 ...")
@click.option("--concurrency", type=int, help="Tasks in hand at once.")
@click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--supervise", is_flag=True, help="Start the worker again when it dies.")
@click.pass_obj
def run(
    session: Session,
    /,
    source: str | None,
    device: str | None,
    *,
    supervise: bool,
    **worker: Any,
) -> None:
    """Load the model, then consume until SIGTERM; running tasks are finished first."""
    settings = _settings(
        session, is_beside_up=False, model={"source": source, "device": device}, worker=worker
    )
    _set_up_logging(settings)
    if supervise:
        from visionq_worker.supervisor import Supervisor

        command = [argument for argument in sys.argv if argument != "--supervise"]
        sys.exit(Supervisor([sys.executable, *command]).run())
    from visionq_worker.app import EXIT_START, build_app

    try:
        app = build_app(settings)
    except StartError as error:
        _say_error(error)
        sys.exit(EXIT_START)
    celery_worker = app.Worker(
        # Several workers on one host need names of their own.
        hostname=f"visionq-{os.getpid()}@{socket.gethostname()}",
        pool="threads",
        concurrency=settings.worker.concurrency,
        loglevel=settings.worker.log_level,
        quiet=True,
        redirect_stdouts=False,
        without_gossip=True,
        without_mingle=True,
    )
    celery_worker.start()
    sys.exit(celery_worker.exitcode or 0)


@main.command()
@click.option("--quick", is_flag=True, help="Broker and bucket only: cheap enough for a probe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--model", "source", help="As for run.")
@click.option("--device", help="As for run.")
@click.pass_obj
def check(
    session: Session, quick: bool, as_json: bool, source: str | None, device: str | None
) -> None:
    """Say in one line each whether broker, bucket, device and model can be used.

    ok: all is well. warn: a worker starts, but know this. FAIL: something does not work.
    """
    settings = _settings(session, model={"source": source, "device": device})
    from visionq_worker.checks import check_all

    is_all_well = True
    for finding in check_all(settings, is_quick=quick):
        is_ok = finding.level != "fail"
        is_all_well &= is_ok
        if as_json:
            level = str(finding.level)
            print_json({"name": finding.name, "level": level, "ok": is_ok, "text": finding.text})
        else:
            mark = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}[finding.level]
            say(one_line(f"{mark} {finding.name}: {finding.text}"))
    sys.exit(0 if is_all_well else 1)


@main.command()
@click.argument("what", type=click.Choice(["live", "ready"]))
@click.pass_obj
def probe(session: Session, what: str) -> None:
    """Say whether the worker that writes worker.health_file lives, or is ready for tasks."""
    from visionq_worker.health import problem

    health_file = _settings(session, is_beside_up=False).worker.health_file
    if health_file is None:
        say("visionq-worker: set worker.health_file for the worker and the probe", err=True)
        sys.exit(EXIT_USAGE)
    reason = problem(health_file, must_be_ready=what == "ready")
    say(what if reason is None else one_line(f"not {what}: {reason}"))
    sys.exit(0 if reason is None else 1)


@main.command()
@click.argument("kind")
@click.argument("images", nargs=-1, required=True)
@click.option("--question", "-q", help="In place of the kind's own.")
@click.option("--max-new-tokens", type=int, help="As for visionq submit.")
@click.option("--num-crops", type=int, help="As for visionq submit.")
@click.option("--schema", type=click.Path(path_type=Path), callback=read_schema)
@click.option("--field", "fields", multiple=True, callback=read_fields, metavar="NAME[:TYPE]")
@click.option("--model", "source", help="As for run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def render(
    session: Session,
    /,
    kind: str,
    images: tuple[str, ...],
    question: str | None,
    source: str | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the prompt of a task about IMAGES (paths, or sizes such as 1024x768) and its tokens."""
    settings = _settings(session, model={"source": source})
    from visionq_worker.rendering import render_submission

    submission = Submission(kind, list(images), question, cast("SubmitOptions", options))
    try:
        refuse_question_among(images, question)
        rendering = render_submission(submission, images, settings)
    except (InvalidTask, TaskError, StartError) as error:
        _say_error(error)
        sys.exit(EXIT_USAGE)
    if as_json:
        print_json(asdict(rendering))
        return
    say(rendering.text)
    say(f"{rendering.num_tokens} tokens, {_listed(rendering.image_tokens)} of them images'")
    say(f"num_crops {rendering.num_crops}, max_new_tokens {rendering.max_new_tokens}")
    say(f"{rendering.kind}, version {rendering.version}, digest {rendering.digest}")


def _listed(numbers: tuple[int, ...]) -> str:
    return " + ".join(map(str, numbers))


class _PrintableFormatter(logging.Formatter):
    """Names and messages of anybody's are logged; none of them may command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _set_up_logging(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(_PrintableFormatter(LOG_FORMAT)))
    logging.basicConfig(level=settings.worker.log_level, handlers=[handler])
    if settings.worker.log_level != "DEBUG":
        for name in REPEATS_OUR_LINES:
            logging.getLogger(name).setLevel(logging.WARNING)
    # Celery warns a root user of pickled messages; only JSON is accepted here.
    warnings.filterwarnings("ignore", message=".*superuser privileges.*")


def _settings(session: Session, *, is_beside_up: bool = True, **flags: dict[str, Any]) -> Settings:
    """With `is_beside_up`, those of a `visionq up` that runs where nothing else was named."""
    try:
        if is_beside_up or session.is_state_named:
            return session.settings(**flags)
        return load_settings(session.file, **flags)
    except (SettingsError, BrokerUnavailable) as error:
        _say_error(error)
        sys.exit(EXIT_USAGE)


def _say_error(error: Exception) -> None:
    say(f"visionq-worker: {one_line(str(error))}", err=True)
