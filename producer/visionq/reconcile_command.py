"""`visionq reconcile`: where store and records differ, for an operator's shell."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from visionq.reconciling import Counts
from visionq.shell import EXIT_NO_ANSWER, Session, json_option, print_json, reported, say
from visionq.terminal import one_line


@click.command("reconcile")
@click.option(
    "--apply", "repairs", is_flag=True, help="Make records that are gone anew from their results."
)
@json_option
@click.pass_obj
@reported
def reconcile(session: Session, repairs: bool, as_json: bool) -> None:
    """Compare the results in the store with the records in Redis, and say where they differ.

    Changes nothing without --apply. Exit codes: 0 no difference is left, 1 there are some, 5 Redis
    or the store cannot be reached.
    """
    num_left = 0
    with session.store_comparison() as comparison:
        for one in comparison.differences(repairs=repairs):
            num_left += not one.is_repaired
            if as_json:
                print_json(asdict(one) | {"message": one.message})
            else:
                say(one_line(f"{one.id} {one.finding} {one.state}: {one.message}"))
        # Of programs, standard output is one difference a line.
        say(_summary(comparison.counts, repairs=repairs), err=as_json)
    if num_left:
        sys.exit(EXIT_NO_ANSWER)


def _summary(counts: Counts, *, repairs: bool) -> str:
    found = ", ".join(f"{number} {name}" for name, number in sorted(counts.findings.items()))
    text = (
        f"{counts.num_objects} results and {counts.num_records} records: {found or 'no difference'}"
    )
    if counts.num_older:
        text += f"; {counts.num_older} results are older than a record's life"
    if counts.findings and not repairs:
        text += "; nothing was changed (--apply makes records anew)"
    return text
