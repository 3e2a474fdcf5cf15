"""What callers hand in beside a task: ids, times, numbers, models. Checked before anything is done.

Each function returns what was given, in the form it is used in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from visionq.contract import is_task_id
from visionq.errors import InvalidArgument, SettingsError, TaskUnknown
from visionq.models import Model

if TYPE_CHECKING:
    from visionq.settings import Settings

MAX_SHOWN_CHARS = 60
MAX_TIMEOUT_SECONDS = 10**9
MAX_COUNT = 2**31 - 1


def checked_id(task_id: object) -> str:
    """Raises `TaskUnknown` for what is no id of a task."""
    if not isinstance(task_id, str) or not is_task_id(task_id):
        raise TaskUnknown(f"{_shown(task_id)} is not a task id")
    return task_id


def checked_ids(task_ids: object) -> list[str]:
    """Raises `TaskUnknown` for the first that is no id, `InvalidArgument` for what is no list."""
    if isinstance(task_ids, str) or not isinstance(task_ids, Iterable):
        raise InvalidArgument(f"task ids come in a list; {_shown(task_ids)} is none")
    return [checked_id(task_id) for task_id in task_ids]


def checked_timeout(seconds: object) -> float | None:
    """None, and more than anybody lives to see, waits for ever; 0 and less wait not at all.

    Raises `InvalidArgument` for what is no number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgument(f"timeout must be a number of seconds, or None: {_shown(seconds)}")
    if seconds > MAX_TIMEOUT_SECONDS:
        return None
    if seconds <= 0:
        return 0
    if math.isnan(seconds):
        raise InvalidArgument("timeout must be a number of seconds, or None: nan is none")
    return seconds


def checked_count(name: str, number: object) -> int:
    """Raises `InvalidArgument` for what is no whole number, 0 or more."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_COUNT:
        raise InvalidArgument(f"{name} must be 0 to {MAX_COUNT}: {_shown(number)}")
    return number


def checked_model(model: type[Model]) -> type[Model]:
    """Raises `InvalidArgument` for what is no pydantic model."""
    if not isinstance(model, type) or not hasattr(model, "model_validate_json"):
        raise InvalidArgument(f"model must be a pydantic model, a class: {_shown(model)}")
    return model


def settings_or_default(settings: Settings | None) -> Settings:
    """Those given, else as settings.toml and the environment say. Raises `SettingsError`."""
    from visionq.settings import Settings, load_settings

    if settings is None:
        return load_settings()
    if not isinstance(settings, Settings):
        raise SettingsError("settings must be of the type visionq.settings.Settings")
    return settings


def _shown(given: object) -> str:
    try:
        text = repr(given)
    except Exception:  # the caller's own __repr__; or a number of too many digits
        text = f"a {type(given).__name__}"
    return text.encode(errors="backslashreplace").decode()[:MAX_SHOWN_CHARS]
