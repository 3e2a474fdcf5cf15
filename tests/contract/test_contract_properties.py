"""Whatever can be built can be sent: written as JSON and read again, it is the same value."""

import json
import string
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_schemas import random_schema
from visionq.contract import (
    Failure,
    ImageRef,
    Lane,
    Options,
    Provenance,
    Result,
    State,
    Task,
    Timings,
    Usage,
    Verdict,
    dump,
    dump_result,
    read_result,
    read_task,
)

words = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=40)
seconds = st.none() | st.floats(0, 1e9)
counts = st.integers(0, 10**6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
labels = st.dictionaries(st.text(max_size=100), st.text(max_size=100), max_size=16)
references = st.builds(
    ImageRef,
    ref=st.builds(
        "{}{}".format,
        st.sampled_from(["inputs/", "s3://bucket/", "https://example.org/", ""]),
        st.text(string.ascii_letters + "äß漢-_?&=%", min_size=1, max_size=60),
    )
    | st.builds(
        "s3://bucket/{}".format,
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(
            lambda key: ".." not in key.split("/")
        ),
    ),
)
options = st.builds(
    Options,
    max_new_tokens=st.none() | st.integers(1, 32_000),
    temperature=st.floats(0, 2) | st.sampled_from([0, 1, 2]),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.none() | st.integers(0, 2**63 - 1),
    num_crops=st.none() | st.integers(1, 16),
    schema=st.none() | st.randoms(use_true_random=False).map(random_schema),
)
tasks = st.builds(
    Task,
    id=st.uuids().map(str),
    kind=st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True),
    images=st.lists(references, max_size=64).map(tuple),
    question=st.none() | st.text(max_size=200),
    options=options,
    lane=st.sampled_from(Lane),
    deadline=st.none() | st.floats(0, 2**53),
    tenant=words,
    labels=labels,
    notify=st.none() | st.text(max_size=50),
    version=st.just(1),
)
results = st.builds(
    Result,
    task_id=st.uuids().map(str),
    kind=words,
    state=st.sampled_from(State),
    finished_at=st.floats(0, 1e12),
    text=st.none() | st.text(),
    value=json_values,
    finish_reason=st.none() | st.sampled_from(["stop", "length", "cancelled", "expired"]),
    verdict=st.none()
    | st.builds(
        Verdict,
        outcome=st.sampled_from(["ok", "degraded", "rejected"]),
        reasons=st.lists(st.text(), max_size=3).map(tuple),
    ),
    usage=st.none()
    | st.builds(Usage, prompt_tokens=counts, image_tokens=counts, completion_tokens=counts),
    timings=st.builds(
        Timings, queue_seconds=seconds, fetch_seconds=seconds, decode_seconds=seconds
    ),
    provenance=st.builds(
        Provenance,
        input_digests=st.lists(words, max_size=3).map(tuple),
        input_pages=st.lists(st.none() | st.integers(1, 9), max_size=3).map(tuple),
        model=st.none() | st.text(),
        seed=st.none() | counts,
        versions=st.dictionaries(words, words, max_size=3),
    ),
    failure=st.none() | st.builds(Failure, code=words, message=st.text(), retryable=st.booleans()),
    tenant=words,
    labels=labels,
)


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data, ensure_ascii=False).encode())


@settings(max_examples=150, deadline=None)
@given(tasks)
def test_any_task_is_the_same_after_it_has_travelled(task: Task) -> None:
    assert read_task(through_json(dump(task))) == task


@settings(max_examples=100, deadline=None)
@given(results)
def test_any_result_is_the_same_after_it_was_stored(result: Result) -> None:
    assert read_result(dump_result(result)) == result


@settings(max_examples=50, deadline=None)
@given(tasks)
def test_a_written_task_names_no_field_that_has_its_default_value(task: Task) -> None:
    written = dump(task)
    assert {"id", "kind", "images", "version"} <= set(written)
    assert None not in written.values()
    assert ("lane" in written) == (task.lane is Lane.BULK)
    assert ("tenant" in written) == (task.tenant != "default")
