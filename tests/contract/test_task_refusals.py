"""What is no Task of version 1 is refused with an InvalidTask that names the field."""

import re
import time
from typing import Any

import pytest

from visionq.contract import (
    MAX_TASK_BYTES,
    ImageRef,
    Options,
    Task,
    encode_new,
    encode_task,
    is_task_id,
    read_task,
)
from visionq.errors import InvalidTask, SchemaUnsupported, UnsupportedVersion

TASK_ID = "0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11"
OTHER_ID = "7d3c0d2a-9a5f-4f6e-8f43-4b0c8a7be912"


def message(**changes: Any) -> dict[str, Any]:
    return {"id": TASK_ID, "kind": "ocr", "images": [{"ref": "inputs/a"}], "version": 1} | changes


@pytest.mark.parametrize("data", [None, 5, "task", ["task"], True])
def test_what_is_no_json_object_is_no_task(data: object) -> None:
    with pytest.raises(InvalidTask, match="not a JSON object"):
        read_task(data)


@pytest.mark.parametrize("field", ["id", "kind", "images"])
def test_a_required_field_may_not_be_left_out(field: str) -> None:
    data = message()
    del data[field]
    with pytest.raises(InvalidTask, match=f"{field}: Field required"):
        read_task(data)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"color": "red"}, "color"),
        ({"options": {"beams": 4}}, "options.beams"),
        ({"images": [{"ref": "inputs/a", "bytes": "AAAA"}]}, "images.0.bytes"),
    ],
)
def test_an_unknown_field_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidTask, match=rf"{named}: Unexpected"):
        read_task(message(**changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": 5}, "id"),
        ({"kind": None}, "kind"),
        ({"images": None}, "images"),
        ({"images": "inputs/a"}, "images"),
        ({"images": {"ref": "inputs/a"}}, "images"),
        ({"images": ["inputs/a"]}, "images.0"),
        ({"images": [{"ref": 5}]}, "images.0.ref"),
        ({"question": 5}, "question"),
        ({"question": ["what?"]}, "question"),
        ({"options": None}, "options"),
        ({"options": []}, "options"),
        ({"options": {"max_new_tokens": "many"}}, "options.max_new_tokens"),
        ({"options": {"max_new_tokens": 1.5}}, "options.max_new_tokens"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"schema": "object"}}, "options.schema"),
        ({"lane": "fast"}, "lane"),
        ({"lane": None}, "lane"),
        ({"deadline": "tomorrow"}, "deadline"),
        ({"tenant": None}, "tenant"),
        ({"labels": []}, "labels"),
        ({"labels": {"order": 17}}, "labels.order"),
        ({"notify": 5}, "notify"),
        ({"version": "first"}, "version"),
        ({"version": None}, "version"),
    ],
)
def test_a_wrong_type_is_refused_by_the_name_of_its_field(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidTask, match=rf"^{named}: "):
        read_task(message(**changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 32_001),
        ("num_crops", 0),
        ("num_crops", 17),
        ("seed", -1),
        ("seed", 2**63),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidTask, match=field):
        read_task(message(options={field: value}))
    with pytest.raises(InvalidTask, match=field):
        Options(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 1),
        ("max_new_tokens", 32_000),
        ("num_crops", 1),
        ("num_crops", 16),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 0.01),
        ("top_p", 1),
    ],
)
def test_an_option_at_the_end_of_its_range_is_taken(field: str, value: float) -> None:
    assert getattr(read_task(message(options={field: value})).options, field) == value


@pytest.mark.parametrize("field", ["max_new_tokens", "num_crops", "seed", "temperature", "top_p"])
@pytest.mark.parametrize("value", ["1", True, [1]])
def test_an_option_of_a_wrong_type_is_refused_where_it_is_built(field: str, value: Any) -> None:
    with pytest.raises(InvalidTask, match=field):
        Options(**{field: value})


@pytest.mark.parametrize("deadline", [-1, float("inf"), float("nan")])
def test_a_deadline_that_is_no_time_is_refused(deadline: float) -> None:
    with pytest.raises(InvalidTask, match="deadline"):
        read_task(message(deadline=deadline))


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "17",
        TASK_ID.upper(),
        TASK_ID.replace("-", ""),
        f"{{{TASK_ID}}}",
        f"{TASK_ID}\n",
        f"../{TASK_ID}",
    ],
)
def test_a_task_id_that_is_no_lower_case_uuid_is_refused(task_id: str) -> None:
    assert not is_task_id(task_id)
    with pytest.raises(InvalidTask, match="id"):
        read_task(message(id=task_id))


def test_a_task_takes_the_id_of_its_message() -> None:
    data = message()
    del data["id"]
    assert read_task(data, task_id=TASK_ID).id == TASK_ID


def test_a_task_may_not_contradict_the_id_of_its_message() -> None:
    with pytest.raises(InvalidTask, match="id differs"):
        read_task(message(), task_id=OTHER_ID)


@pytest.mark.parametrize("kind", ["", "OCR", "1ocr", "o c r", "ocr\n", "o" * 41, "../ocr"])
def test_a_bad_kind_name_is_refused(kind: str) -> None:
    with pytest.raises(InvalidTask, match="kind"):
        read_task(message(kind=kind))


@pytest.mark.parametrize("tenant", ["", "Acme", "a_b", "a b", "a" * 41, "a\n", "a:b"])
def test_a_bad_tenant_is_refused(tenant: str) -> None:
    with pytest.raises(InvalidTask, match="tenant"):
        read_task(message(tenant=tenant))


@pytest.mark.parametrize(
    "labels",
    [
        {str(number): "" for number in range(17)},
        {"k" * 101: "v"},
        {"k": "v" * 101},
    ],
)
def test_too_many_or_too_long_labels_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidTask, match="labels"):
        read_task(message(labels=labels))


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "/etc/passwd",
        "inputs/../secret",
        "../secret",
        "s3://bucket/../secret",
        "https://example.org/../secret",
        "http://example.org/a.png",
        " http://example.org/a.png",
        "S3://bucket/key",
        "ftp://example.org/a.png",
        "file:///etc/passwd",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "https://",
        "https:///a.png",
        "https://example.org/a b.png",
        "https://example.org/" + "k" * 1000,
        "k" * 1025,
        "é" * 513,
        "s3://bucket/" + "é" * 513,
        "s3://two words/key",
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(ref: str) -> None:
    with pytest.raises(InvalidTask, match="image reference"):
        ImageRef(ref=ref)
    with pytest.raises(InvalidTask, match="image"):
        read_task(message(images=[{"ref": ref}]))


@pytest.mark.parametrize(
    "ref",
    [
        "inputs/2cf24dba",
        "photos/2024/übersicht.png",
        "a..b/c",
        "s3://bucket/key",
        "s3://bucket/deep/er/key.png",
        "inputs/my photo.jpg",
        "inputs/Bildschirmfoto 10.30\u202fUhr.png",
        " inputs/a\n",
        "inputs/a://b",
        "s3://bucket/my photo.jpg",
        "s3://bucket/a\u00a0b\u202fc\u3000d\u2028e\x85f\tg\x01h",
        "s3://bucket/ ",
        "s3://bucket/a%20b+c?d#page=3",
        "s3://bucket//etc/passwd",
        "s3://bucket/https://example.org",
        "k" * 1024,
        "s3://bucket/" + "é" * 512,
        "https://example.org/a.png?size=large",
        "https://example.org",
    ],
)
def test_a_key_an_s3_url_and_an_https_url_are_references(ref: str) -> None:
    assert ImageRef(ref=ref).ref == ref


def test_65_images_are_refused_and_64_are_not() -> None:
    assert len(read_task(message(images=[{"ref": "inputs/a"}] * 64)).images) == 64
    with pytest.raises(InvalidTask, match="more than 64 images"):
        read_task(message(images=[{"ref": "inputs/a"}] * 65))


def test_a_question_of_8001_characters_is_refused_and_one_of_8000_is_not() -> None:
    assert read_task(message(question="x" * 8000)).question == "x" * 8000
    with pytest.raises(InvalidTask, match="question"):
        read_task(message(question="x" * 8001))


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "half a character: \ud83d"},
        {"labels": {"half": "\ud83d"}},
        {"labels": {"\udc00": "half"}},
        {"images": [{"ref": "inputs/\ud83d"}]},
    ],
)
def test_text_that_cannot_be_written_as_utf_8_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask, match="Invalid JSON"):
        read_task(message(**changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"options": {"max_new_tokens": "5"}}, "options.max_new_tokens"),
        ({"options": {"max_new_tokens": True}}, "options.max_new_tokens"),
        ({"options": {"temperature": "0"}}, "options.temperature"),
        ({"deadline": True}, "deadline"),
        ({"question": 5}, "question"),
        ({"labels": {"a": 1}}, "labels.a"),
    ],
)
def test_a_value_of_a_neighbouring_type_is_refused_and_not_converted(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidTask, match=re.escape(named)):
        read_task(message(**changes))


def test_a_task_cannot_be_built_around_the_checks() -> None:
    with pytest.raises(InvalidTask, match="kind"):
        Task(id=TASK_ID, kind="No Kind", images=())


def test_a_task_of_a_later_version_is_refused_for_that_and_not_for_its_new_fields() -> None:
    with pytest.raises(UnsupportedVersion, match="reads contract version 1, not 2"):
        read_task(message(version=2, colour="red"))


def test_a_schema_that_is_not_carried_out_is_refused_with_its_pointer() -> None:
    with pytest.raises(SchemaUnsupported) as caught:
        read_task(
            message(options={"schema": {"anyOf": [{"type": "null"}, {"unevaluatedItems": {}}]}})
        )
    assert (caught.value.code, caught.value.pointer) == (
        "schema_unsupported",
        "/anyOf/1/unevaluatedItems",
    )


def test_of_an_unknown_field_a_part_of_its_name_is_shown() -> None:
    begun = time.process_time()
    with pytest.raises(InvalidTask) as caught:
        read_task(message(**{"a:\n\x1b" * 8_000 + "/ ?": 1}))
    assert time.process_time() - begun < 1
    assert len(str(caught.value)) < 200
    assert "a:" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("letter", ["d", "\u0436", "\u6c34", "\U0001f600"])
def test_a_task_is_read_as_long_as_a_record_may_hold_it(letter: str) -> None:
    schema = {"type": "object", "description": letter * (57_600 // len(letter.encode()))}

    def sized(size: int) -> Task:
        part = message(kind="ask", question="q", options={"schema": schema})
        left = size - len(encode_task(read_task(part)).encode())
        return read_task({**part, "question": "q" * (1 + left)})

    assert len(encode_new(sized(MAX_TASK_BYTES)).encode()) == MAX_TASK_BYTES
    with pytest.raises(InvalidTask, match="65537 bytes"):
        sized(MAX_TASK_BYTES + 1)
