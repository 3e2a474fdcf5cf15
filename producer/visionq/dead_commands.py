"""`visionq dead`: what workers have put aside, for an operator's shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click

from visionq.dead import DeadLetter, Outcome, Where
from visionq.shell import (
    EXIT_NO_ANSWER,
    EXIT_UNKNOWN,
    Session,
    json_option,
    print_json,
    reported,
    say,
    say_none,
)
from visionq.terminal import one_line
from visionq.usage import Amount, Program

SECONDS_PER_DAY = 24 * 3600

_reason_option = click.option("--reason", help="Those whose reason contains this text.")


@click.group(cls=Program)
def dead() -> None:
    """Messages that nobody could read, and tasks with which too many workers were lost."""


@dead.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_reason_option
@json_option
@click.pass_obj
@reported
def list_dead(session: Session, limit: int, reason: str | None, as_json: bool) -> None:
    """List dead letters, newest first: id, queue, when and why."""
    with session.dead_letters() as letters:
        found = letters.list(limit, where=Where(reason=reason))
    for letter in found:
        if as_json:
            print_json(asdict(letter))
        else:
            say(_described(letter))
    if not found and not as_json:
        say_none()


@dead.command("show")
@click.argument("letter_id")
@json_option
@click.pass_obj
@reported
def show_dead(session: Session, letter_id: str, as_json: bool) -> None:
    """Print a dead letter's message, and what its task's record says."""
    with session.dead_letters() as letters:
        opened = letters.show(letter_id)
    if as_json:
        more = {"state": str(opened.state), "task": opened.task, "text": opened.text}
        print_json(asdict(opened.letter) | more)
        return
    say(_described(opened.letter))
    say(f"{opened.letter.size} bytes; the task is {opened.state}")
    say(opened.text)


@dead.command("replay")
@click.argument("letter_ids", nargs=-1)
@_reason_option
@click.option("--all", "is_all", is_flag=True, help="All dead letters.")
@json_option
@click.pass_obj
@reported
def replay_dead(
    session: Session, letter_ids: tuple[str, ...], reason: str | None, is_all: bool, as_json: bool
) -> None:
    """Put dead letters back into their queues; a task's is a new attempt under the same id."""
    which = _which(letter_ids, Where(reason=reason), is_all=is_all)
    with session.dead_letters() as letters:
        replayed = letters.replay(which)
    for one in replayed:
        if as_json:
            print_json(asdict(one) | {"message": one.message})
        else:
            say(one_line(f"{one.id} {one.outcome}: {one.message}"))
    if not replayed and not as_json:
        say_none()
    if any(one.outcome is Outcome.UNKNOWN for one in replayed):
        sys.exit(EXIT_UNKNOWN)
    if any(one.is_refused for one in replayed):
        sys.exit(EXIT_NO_ANSWER)


@dead.command("purge")
@click.argument("letter_ids", nargs=-1)
@_reason_option
@click.option("--older-than", "days", type=Amount(), help="Days, at the least.")
@click.option("--all", "is_all", is_flag=True, help="All dead letters.")
@click.option("--yes", "is_sure", is_flag=True, help="Needed for letters that are not named.")
@json_option
@click.pass_obj
@reported
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
            print_json({"id": letter_id, "outcome": outcome})
        else:
            say(one_line(f"{letter_id} {outcome}"))
    if not letter_ids and not purged and not as_json:
        say_none()
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
    return one_line(f"{letter.id:<36} {letter.queue} {when} {letter.reason}")
