"""The two commands, run in this process: what they print and how they exit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from click.testing import CliRunner, Result

from visionq.cli import main as visionq_main
from visionq_worker.cli import main as worker_main

Environment = Mapping[str, str]


def visionq(env: Environment, *arguments: object) -> Result:
    """`visionq ARGUMENTS`; `exit_code`, `stdout` and `stderr` tell what came of it."""
    return _invoked("visionq", visionq_main, env, arguments)


def visionq_worker(env: Environment, *arguments: object) -> Result:
    """`visionq-worker ARGUMENTS`."""
    return _invoked("visionq-worker", worker_main, env, arguments)


def json_of(result: Result) -> Any:
    """The one JSON value on standard output."""
    return json.loads(result.stdout)


def json_lines(result: Result) -> list[Any]:
    """A JSON value per line of standard output."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def _invoked(
    name: str, command: click.Command, env: Environment, arguments: tuple[object, ...]
) -> Result:
    given = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, given, env=dict(env), prog_name=name)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
