"""Wrong usage of a command line: what the two programs say of options, commands and questions."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from visionq.errors import InvalidImage, InvalidTask
from visionq.inputs import as_reference, split_page
from visionq.terminal import one_line, printable

_ARGUMENTS = "visionq.arguments"
# A data URI, a size in pixels, or the ending of a file that is not there.
_NO_WORDS = re.compile(r"^data:|^[0-9]+x[0-9]+$|\.[A-Za-z][A-Za-z0-9]{1,4}$")


_SETTINGS: Any = {
    "type": click.Path(dir_okay=False, path_type=Path),
    "help": "Settings file; default: VISIONQ_SETTINGS, else ./settings.toml.",
}
_STATE: Any = {
    "type": click.Path(file_okay=False, path_type=Path),
    "help": "Folder of `visionq up`, whose servers and model are meant; "
    "default: ~/.local/state/visionq, where nothing else is set.",
}
settings_option = click.option("--settings", "file", **_SETTINGS)
state_option = click.option("--state", "state_folder", **_STATE)


class PlacedCommand(click.Command):
    """A command that takes these two options behind its name as well as before it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        own: Any = {"callback": _replaced, "expose_value": False}
        self.params.append(click.Option(["--settings", "file"], **_SETTINGS, **own))
        self.params.append(click.Option(["--state", "state_folder"], **_STATE, **own))


def _replaced(context: click.Context, option: click.Parameter, value: Path | None) -> None:
    """For this command, the `Session` that the options before it have led to is another one."""
    if value is not None:
        context.obj = context.obj.having(**{str(option.name): value})


class Program(click.Group):
    """A group of commands that names what there is when something else was asked for."""

    command_class = PlacedCommand

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        given = tuple(args)
        with _explained():
            context = super().make_context(info_name, args, *more, **extra)
        context.meta.setdefault(_ARGUMENTS, given)
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _explained():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            there_are = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"No such command {args[0]!r}; there are {there_are}.", ctx)
        return super().resolve_command(ctx, args)


class Amount(click.FloatRange):
    """A number of at least 0. `nan`, which no comparison refuses, is none."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


@contextmanager
def _explained() -> Iterator[None]:
    """A usage error lists the options that there are, and cannot command the terminal."""
    try:
        yield
    except click.NoSuchOption as error:
        name = one_line(error.option_name)
        raise click.UsageError(f"No such option {name}; {_known(error.ctx)}.", error.ctx) from error
    except click.UsageError as error:
        said = error.format_message()
        if printable(said) == said:
            raise
        raise click.UsageError(printable(said), error.ctx) from error


def _known(context: click.Context | None) -> str:
    if context is None:
        return "see --help"
    known = [
        "/".join((*parameter.opts, *parameter.secondary_opts))
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option)
    ]
    return f"there are {', '.join(known)}"


def refuse_question_among(images: Sequence[str], question: str | None) -> None:
    """Raise `InvalidTask` where the last arguments are words and no images: is it the question?

    The message has the command line as it was probably meant.
    """
    words: list[str] = []
    for image in reversed(images):
        if _may_be_image(image):
            break
        words.insert(0, image)
    if question is not None or not words or len(words) == len(images):
        return
    meant = " ".join(words)
    raise InvalidTask(
        f"{meant!r} is no image; if it is the question: {_with_question(words, meant)}"
    )


def _may_be_image(image: str) -> bool:
    try:
        if as_reference(image) is not None:
            return True
        file, _ = split_page(image)
    except InvalidImage:
        return True  # of a form of its own, and wrong
    path = Path(str(file))
    try:
        is_there = path.exists()
    except (OSError, ValueError):  # too long for a name, or with a null character
        is_there = False
    return is_there or _NO_WORDS.search(image) is not None


def _with_question(words: Sequence[str], meant: str) -> str:
    """The command line of this moment, with those words behind `-q`."""
    context = click.get_current_context()
    arguments = list(context.meta.get(_ARGUMENTS, ()))
    places: list[int] = []
    for word in reversed(words):
        end = places[-1] if places else len(arguments)
        places.append(max(i for i in range(end) if arguments[i] == word))
    for place in places:
        del arguments[place]
    first = min([places[-1], *(i for i, one in enumerate(arguments) if one == "--")])
    arguments[first:first] = ["-q", meant]
    return shlex.join([str(context.find_root().info_name), *arguments])
