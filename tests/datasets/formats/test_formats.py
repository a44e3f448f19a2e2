"""One row at a time: what is accepted, what it becomes, what is said about the rest."""

from typing import Any

import orjson
import pytest

from app.datasets import formats
from app.datasets.formats import BadRow

USER = {"role": "user", "content": "你好"}
BOT = {"role": "assistant", "content": "您好！"}
SYSTEM = {"role": "system", "content": "Be brief."}
FUNCTION = {"name": "now", "arguments": {}}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}
OTHER_CALL = {**CALL, "id": "c2"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOLD = {"role": "tool", "content": "noon", "tool_call_id": "c1"}


def kept(row: Any, kind: str = "messages") -> list[tuple[str, str]]:
    made, _ = formats.normalise(row, kind)
    return [(message["role"], message["content"]) for message in made["messages"]]


def refused(row: Any, kind: str = "messages") -> tuple[str, str]:
    with pytest.raises(BadRow) as caught:
        formats.normalise(row, kind)
    assert caught.value.message % caught.value.params
    return caught.value.code, caught.value.path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [USER, BOT], "label": "positive"}, "messages"),
        ({"messages": [USER, BOT], "label": True}, "kto"),
        ({"messages": [USER, BOT], "kto_tag": "x"}, "kto"),
        ({"messages": [USER], "chosen": BOT, "rejected": BOT}, "preference"),
        ({"messages": [], "output": 1}, "messages"),
        ({"conversations": [USER, BOT]}, "messages"),
        ({"conversations": []}, "sharegpt"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"instruction": "a"}, "alpaca"),
        ({"input": "a", "output": "a"}, "alpaca"),
        ({"instruction": "a", "context": "b", "response": "c"}, ""),
        ({"output": "a"}, ""),
        ({"prompt": "a", "output": "b"}, ""),
        ({"prompt": "a", "completion": "b"}, "completion"),
        ({"prompt": "a", "completion": "b", "label": False}, "kto"),
        ({"instruction": "a", "output": "b", "kto_tag": False}, "kto"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "preference"),
        ({"text": "a", "url": "b"}, "text"),
        ({"text": "a", "label": "positive"}, ""),
        ({"text": 5}, ""),
        ({"问题": "a", "答案": "b"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_detect(row: Any, kind: str) -> None:
    assert formats.detect(row) == kind


def test_every_format_has_a_kind() -> None:
    assert set(formats.KINDS.values()) == {"sft", "pretrain", "preference", "kto"}
    assert set(formats.MARKS) == set(formats.FORMATS) == set(formats.columns.FIELDS)


# -- messages ----------------------------------------------------------------------------


def test_messages_are_kept_as_they_are() -> None:
    row = {"messages": [SYSTEM, USER, BOT, {**USER, "name": "lin"}, BOT]}
    made, unused = formats.normalise(row, "messages")
    assert made == row
    assert unused == set()


def test_what_is_not_used_is_named() -> None:
    row = {
        "messages": [{**USER, "weight": 0.5, "x": None}, {**BOT, "refusal": None, "mood": 1}],
        "source": "x",
        "a\0b": 1,
        "empty": "",
        "parallel_tool_calls": False,
    }
    made, unused = formats.normalise(row, "messages")
    assert made == {"messages": [USER, BOT]}
    assert unused == {"source", "messages[].weight", "messages[].mood", "a�b"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"weight": 0}, 0),
        ({"weight": 1}, None),
        ({"weight": None}, None),
        ({"loss_weight": 0.25}, 0.25),
        ({"loss_weight": 1.0}, None),
        ({"weight": 0, "loss_weight": 0.0}, 0),
    ],
)
def test_weights(given: Any, expected: float | None) -> None:
    made, unused = formats.normalise(
        {"messages": [{**USER, "weight": 0}, {**BOT, **given}]}, "messages"
    )
    assert made["messages"][1].get("weight") == expected
    assert unused == set()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"weight": 2}, "weight.value"),
        ({"weight": -1}, "weight.value"),
        ({"weight": "1"}, "weight.value"),
        ({"weight": True}, "weight.value"),
        ({"loss_weight": float("nan")}, "weight.value"),
        ({"weight": 1, "loss_weight": 0.5}, "weight.both"),
    ],
)
def test_refused_weights(given: Any, code: str) -> None:
    assert refused({"messages": [USER, {**BOT, **given}]})[0] == code


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert kept({"messages": [{"role": "user", "content": parts}, BOT]})[0] == ("user", "ab")


def test_a_cell_of_a_table_holds_messages_as_json() -> None:
    assert kept({"messages": orjson.dumps([USER, BOT]).decode()})[0] == ("user", "你好")


def test_turns_may_be_empty_but_the_answer_not() -> None:
    quiet = {"role": "assistant", "content": ""}
    row = {
        "messages": [{"role": "system", "content": ""}, {**USER, "content": " "}, quiet, USER, BOT]
    }
    assert formats.normalise(row, "messages")[0] == row
    assert refused({"messages": [USER, quiet]}) == ("content.empty", "messages[1].content")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (7, ("row.type", "")),
        ("text", ("row.type", "")),
        (None, ("row.type", "")),
        ([], ("row.type", "")),
        ({}, ("messages.missing", "messages")),
        ({"messages": None}, ("messages.type", "messages")),
        ({"messages": "x"}, ("messages.type", "messages")),
        ({"messages": "[x"}, ("messages.type", "messages")),
        ({"messages": []}, ("messages.empty", "messages")),
        ({"messages": [1]}, ("message.type", "messages[0]")),
        ({"messages": [{"content": "x"}]}, ("role.missing", "messages[0].role")),
        ({"messages": [{"role": 5}]}, ("role.type", "messages[0].role")),
        ({"messages": [USER, BOT, {"role": "bot", "content": "x"}]}, ("role.unknown", "messages[2].role")),
        ({"messages": [{"role": "user"}, BOT]}, ("content.missing", "messages[0].content")),
        ({"messages": [{"role": "user", "content": None}, BOT]}, ("content.type", "messages[0].content")),
        ({"messages": [{"role": "user", "content": 5}, BOT]}, ("content.type", "messages[0].content")),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, ("content.empty", "messages[1].content")),
        ({"messages": [USER, {"role": "assistant", "content": "a\0"}]}, ("text.nul", "messages[1].content")),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, BOT]},
            ("content.part", "messages[0].content[0]"),
        ),
        ({"messages": [USER]}, ("assistant.missing", "messages")),
        ({"messages": [SYSTEM]}, ("assistant.missing", "messages")),
        ({"messages": [USER, BOT, USER]}, ("turn.last", "messages[2].role")),
        ({"messages": [BOT]}, ("turn.first", "messages[0].role")),
        ({"messages": [SYSTEM, BOT]}, ("turn.first", "messages[1].role")),
        ({"messages": [USER, SYSTEM, BOT]}, ("turn.system", "messages[1].role")),
        (
            {"messages": [USER, {"role": "tool", "content": "1"}, BOT]},
            ("turn.tool", "messages[1].role"),
        ),
        ({"messages": [USER, BOT], "tools": "{"}, ("tools.invalid", "tools")),
        ({"messages": [USER, BOT], "tools": {"a": 1}}, ("tools.type", "tools")),
        ({"messages": [USER, BOT], "tools": [1]}, ("tools.type", "tools")),
        ({"messages": [USER, BOT], "tools": [{"function": 1}]}, ("tools.function", "tools[0]")),
        ({"conversations": [USER, {"role": "x"}]}, ("role.unknown", "conversations[1].role")),
        ({"messages": [USER], "chosen": BOT, "rejected": BOT}, ("row.other_format", "")),
        ({"instruction": "a", "output": "b"}, ("row.other_format", "")),
        ({"text": "a"}, ("row.other_format", "")),
    ],
)  # fmt: skip
def test_refused_messages(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row) == expected


def test_neither_format() -> None:
    assert refused({"问题": "a"}, "") == ("row.format", "")


# -- tools -------------------------------------------------------------------------------


def test_tool_calls() -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    called = {**CALL, "function": {"name": "now", "arguments": '{"at": "noon"}'}}
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {**TOLD, "content": ""},
            BOT,
        ],
        "tools": tools,
    }
    made, unused = formats.normalise(row, "messages")
    call = {**CALL, "function": {"name": "now", "arguments": {"at": "noon"}}}
    assert made["messages"][1] == {**CALLS, "tool_calls": [call]}
    assert made["messages"][2] == {**TOLD, "content": ""}
    assert made["tools"] == tools
    assert unused == set()


def test_calls_without_ids_are_linked_by_their_order() -> None:
    bare = {"function": FUNCTION}
    told = {"role": "tool", "content": "1"}
    row = {
        "messages": [
            USER, {"role": "assistant", "tool_calls": [bare, bare]}, told, told,
            {"role": "assistant", "tool_calls": [bare]}, told, BOT,
        ]
    }  # fmt: skip
    made = formats.normalise(row, "messages")[0]["messages"]
    ids = ["call00001", "call00002", "call00003"]
    assert [call["id"] for one in made for call in one.get("tool_calls", [])] == ids
    assert [one["tool_call_id"] for one in made if one["role"] == "tool"] == ids


def test_the_older_names_of_calls() -> None:
    row = {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "f", "arguments": "{}"},
            },
            {"role": "function", "name": "f", "content": "1"},
            BOT,
        ],
        "functions": [{"name": "f", "parameters": {}}],
        "function_call": "auto",
    }
    made, unused = formats.normalise(row, "messages")
    function = {"name": "f", "arguments": {}}
    assert made["messages"][1]["tool_calls"] == [
        {"id": "call00001", "type": "function", "function": function}
    ]
    told = {"role": "tool", "content": "1", "name": "f", "tool_call_id": "call00001"}
    assert made["messages"][2] == told
    assert made["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert unused == set()


def test_one_answer_for_several_calls() -> None:
    row = {"messages": [USER, {**CALLS, "tool_calls": [CALL, OTHER_CALL]}, TOLD, BOT]}
    assert formats.normalise(row, "messages")[0] == row


def test_the_last_turn_may_call() -> None:
    assert kept({"messages": [USER, CALLS]})[1] == ("assistant", "")


TWO = {**CALLS, "tool_calls": [CALL, OTHER_CALL]}
THREE = {**CALLS, "tool_calls": [CALL, OTHER_CALL, {**CALL, "id": "c3"}]}
OTHER = {**TOLD, "tool_call_id": "c2"}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([CALLS, {**TOLD, "tool_call_id": "x"}, BOT], ("tool_call_id.unknown", "messages[2].tool_call_id")),
        ([CALLS, TOLD, TOLD, BOT], ("tool_call_id.unknown", "messages[3].tool_call_id")),
        ([TWO, TOLD, {"role": "tool", "content": "1"}, BOT], ("tool_call_id.missing", "messages[3].tool_call_id")),
        ([CALLS, USER, BOT], ("tool_calls.unanswered", "messages[1].tool_calls")),
        ([CALLS, BOT], ("tool_calls.unanswered", "messages[1].tool_calls")),
        ([THREE, TOLD, OTHER, BOT], ("tool_calls.unanswered", "messages[1].tool_calls")),
        ([{**CALLS, "tool_calls": [CALL, CALL]}, TOLD, BOT], ("tool_calls.id", "messages[1].tool_calls")),
        ([BOT, TOLD, BOT], ("turn.tool", "messages[2].role")),
    ],
)  # fmt: skip
def test_calls_and_answers_that_do_not_meet(turns: Any, expected: tuple[str, str]) -> None:
    assert refused({"messages": [USER, *turns]}) == expected


@pytest.mark.parametrize(
    ("calls", "code"),
    [
        ({"a": 1}, "tool_calls.type"),
        ([1], "tool_calls.function"),
        ([{"function": {"name": 1}}], "tool_calls.function"),
        ([{"function": {"name": "f", "arguments": [1]}}], "tool_calls.arguments"),
        ([{"function": {"name": "f", "arguments": "{"}}], "tool_calls.arguments"),
        ([{"id": 5, "function": {"name": "f"}}], "text.type"),
    ],
)
def test_refused_tool_calls(calls: Any, code: str) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": calls}]}
    assert refused(row)[0] == code


def test_nesting_that_could_not_be_written_again_is_refused() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    call = {"function": {"name": "f", "arguments": deep}}
    row = {"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": [call]}]}
    assert refused(row)[0] == "json.deep"
    assert refused({"messages": [USER, BOT], "tools": [deep]})[0] == "json.deep"


@pytest.mark.parametrize("depth", range(230, 260))
def test_whatever_is_accepted_can_be_answered(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    call = {"function": {"name": "f", "arguments": deep}}
    row = {"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": [call]}]}
    try:
        made, _ = formats.normalise(row, "messages")
    except BadRow:
        return
    assert orjson.dumps({"data": [made]})


# -- what all rows share -----------------------------------------------------------------


def test_the_fingerprint_knows_content_and_order_but_not_ids() -> None:
    one, two = {"id": "a", "messages": [USER]}, {"id": "b", "messages": [BOT]}
    first = formats.fingerprint(formats.fingerprint("", one), two)
    assert first == formats.fingerprint(formats.fingerprint("", {**one, "id": "z"}), two)
    assert first != formats.fingerprint(formats.fingerprint("", two), one)


def test_the_hash_of_a_row_knows_content_but_not_ids() -> None:
    row = {"messages": [USER, BOT]}
    assert formats.row_hash({"id": "a", **row}) == formats.row_hash(row)
    assert formats.row_hash(row) != formats.row_hash({"messages": [BOT, USER]})
    assert len(formats.row_hash(row)) == 32


def test_names_out_of_a_file_are_made_fit_for_a_message() -> None:
    assert formats.shown("a\0\n\x1b" + "b" * 100) == "a���" + "b" * 56 + "…"
