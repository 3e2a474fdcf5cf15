"""The words of the wire, by hand: programs branch on them and stored data carries them."""

import pickle

import pytest

from visionq.contract import FINAL_STATES, FailureCode, Lane, State, Task
from visionq.errors import (
    ImageTooNarrow,
    InvalidImage,
    InvalidTask,
    PromptTooLong,
    TaskFailed,
    TaskNotDone,
    UnknownKind,
    UnsupportedOption,
    VisionqError,
    WrongImageCount,
)
from visionq.names import TASK_NAME, Names, input_key, result_key

TASK_ID = "0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11"


def test_states_are_celery_s_words_and_two_of_our_own() -> None:
    assert [str(state) for state in State] == [
        "PENDING",
        "STARTED",
        "PROGRESS",
        "RETRY",
        "SUCCESS",
        "FAILURE",
        "REVOKED",
        "EXPIRED",
        "UNKNOWN",
    ]


def test_four_states_are_final() -> None:
    assert {str(state) for state in FINAL_STATES} == {"SUCCESS", "FAILURE", "REVOKED", "EXPIRED"}
    assert [state.value for state in State if state.is_final] == [
        "SUCCESS",
        "FAILURE",
        "REVOKED",
        "EXPIRED",
    ]


def test_failure_codes_never_change() -> None:
    assert [str(code) for code in FailureCode] == [
        "invalid_task",
        "unknown_kind",
        "unsupported_option",
        "unsupported_version",
        "schema_unsupported",
        "image_count",
        "question_not_allowed",
        "input_missing",
        "input_not_allowed",
        "input_too_large",
        "input_unavailable",
        "input_corrupt",
        "not_an_image",
        "image_truncated",
        "image_too_large",
        "image_shape",
        "page_missing",
        "pdf_encrypted",
        "prompt_tags",
        "prompt_too_long",
        "model_error",
        "storage_unavailable",
        "worker_lost",
        "revoked",
        "expired",
        "internal",
    ]


def test_lanes_never_change() -> None:
    assert [str(lane) for lane in Lane] == ["interactive", "bulk"]


def test_names_of_queues_keys_and_channels_never_change() -> None:
    names = Names()
    assert TASK_NAME == "visionq.run"
    assert names.queue("interactive") == "visionq.interactive"
    assert names.queue("bulk") == "visionq.bulk"
    assert names.record(TASK_ID) == f"visionq:task:{TASK_ID}"
    assert names.lane("bulk") == "visionq:lane:bulk"
    assert names.events(TASK_ID) == f"visionq:events:{TASK_ID}"
    assert names.dead() == "visionq:dead"
    assert names.workers() == "visionq:workers"
    assert names.cancelled() == "visionq:cancelled"
    assert names.celery_result(TASK_ID) == f"celery-task-meta-{TASK_ID}"
    assert names.control_exchange() == "celery"
    assert names.event_exchange() == "celeryev"


def test_two_namespaces_share_no_name() -> None:
    names = Names("staging")
    assert names.queue("bulk") == "staging.bulk"
    assert names.record(TASK_ID) == f"staging:task:{TASK_ID}"
    assert names.events(TASK_ID) == f"staging:events:{TASK_ID}"
    assert names.lane("bulk") == "staging:lane:bulk"
    assert names.dead() == "staging:dead"
    assert names.cancelled() == "staging:cancelled"
    assert names.celery_result(TASK_ID) == f"staging:celery-task-meta-{TASK_ID}"
    assert names.control_exchange() == "staging:celery"
    assert names.event_exchange() == "staging:celeryev"


def test_object_keys_never_change() -> None:
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert input_key(b"hello") == f"inputs/{digest}"
    assert result_key(TASK_ID) == f"results/{TASK_ID}.json"
    assert Task(id=TASK_ID, kind="ocr", images=()).result_key == f"results/{TASK_ID}.json"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidTask, "invalid_task"),
        (UnknownKind, "unknown_kind"),
        (WrongImageCount, "image_count"),
        (InvalidImage, "not_an_image"),
        (ImageTooNarrow, "image_shape"),
        (PromptTooLong, "prompt_too_long"),
        (UnsupportedOption, "unsupported_option"),
    ],
)
def test_a_refusal_carries_the_code_that_a_failed_result_would_carry(
    error: type[InvalidTask], code: str
) -> None:
    assert error().code == code
    assert FailureCode(error.code).value == code


def test_a_task_failed_survives_pickling_with_code_and_retryable() -> None:
    copy = pickle.loads(pickle.dumps(TaskFailed("the store was away", "storage_unavailable", True)))
    assert type(copy) is TaskFailed
    assert (str(copy), copy.code, copy.retryable) == (
        "the store was away",
        "storage_unavailable",
        True,
    )


def test_an_error_without_a_message_says_what_its_class_says() -> None:
    assert str(TaskFailed()) == "The task failed."
    assert str(UnknownKind()) == "There is no such kind of task."


def test_whoever_catches_visionq_error_catches_everything() -> None:
    assert issubclass(TaskNotDone, VisionqError)
    assert issubclass(InvalidTask, VisionqError)
