"""One row at a time: what is accepted, what it becomes, what is said about the rest."""

from typing import Any

import orjson
import pytest

from app.datasets import formats
from app.datasets.formats import BadRow

USER = {"role": "user", "content": "你好"}
BOT = {"role": "assistant", "content": "您好！"}
SYSTEM = {"role": "system", "content": "Be brief."}


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
        ({"instruction": "a"}, "alpaca"),
        ({"output": "a"}, "alpaca"),
        ({"messages": [], "output": 1}, "messages"),
        ({"conversations": []}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_detect(row: Any, kind: str) -> None:
    assert formats.detect(row) == kind


def test_messages_are_kept_as_they_are() -> None:
    row = {"messages": [SYSTEM, USER, BOT, {**USER, "name": "lin"}, BOT]}
    made, unused = formats.normalise(row, "messages")
    assert made == row
    assert unused == set()


def test_what_is_not_used_is_named() -> None:
    row = {"messages": [{**USER, "weight": 0}, {**BOT, "weight": 1}], "source": "x", "a\0b": 1}
    made, unused = formats.normalise(row, "messages")
    assert made == {"messages": [USER, BOT]}
    assert unused == {"source", "messages[].weight", "a�b"}


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert kept({"messages": [{"role": "user", "content": parts}, BOT]})[0] == ("user", "ab")


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
        ({"messages": []}, ("messages.empty", "messages")),
        ({"messages": [1]}, ("message.type", "messages[0]")),
        ({"messages": [{"content": "x"}]}, ("role.missing", "messages[0].role")),
        ({"messages": [{"role": 5}]}, ("role.type", "messages[0].role")),
        ({"messages": [USER, BOT, {"role": "bot", "content": "x"}]}, ("role.unknown", "messages[2].role")),
        ({"messages": [{"role": "user"}, BOT]}, ("content.missing", "messages[0].content")),
        ({"messages": [{"role": "user", "content": None}, BOT]}, ("content.type", "messages[0].content")),
        ({"messages": [{"role": "user", "content": 5}, BOT]}, ("content.type", "messages[0].content")),
        ({"messages": [{"role": "user", "content": " \n"}, BOT]}, ("content.empty", "messages[0].content")),
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
    ],
)  # fmt: skip
def test_refused_messages(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row) == expected


def test_tool_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "now"}}]
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
            BOT,
        ],
        "tools": tools,
    }
    made, unused = formats.normalise(row, "messages")
    assert made["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert made["messages"][2] == {"role": "tool", "content": "", "tool_call_id": "c1"}
    assert made["tools"] == tools
    assert unused == set()


@pytest.mark.parametrize(
    ("calls", "code"),
    [
        ({"a": 1}, "tool_calls.type"),
        ([1], "tool_calls.function"),
        ([{"function": {"name": 1}}], "tool_calls.function"),
        ([{"function": {"name": "f", "arguments": [1]}}], "tool_calls.arguments"),
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


# LLaMA-Factory's reading of alpaca (reference/training.md, 3.3)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "output": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "input": "i", "output": "b"}, [("user", "a\ni"), ("assistant", "b")]),
        ({"instruction": "a", "input": "", "output": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "", "input": "i", "output": "b"}, [("user", "i"), ("assistant", "b")]),
        ({"instruction": None, "input": "i", "output": "b"}, [("user", "i"), ("assistant", "b")]),
        (
            {"instruction": "a", "output": "b", "system": "s"},
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        ({"instruction": "a", "output": "b", "system": ""}, [("user", "a"), ("assistant", "b")]),
        (
            {"instruction": "a", "output": "b", "system": "s", "history": [["q", "r"], ["t", "u"]]},
            [
                ("system", "s"),
                ("user", "q"),
                ("assistant", "r"),
                ("user", "t"),
                ("assistant", "u"),
                ("user", "a"),
                ("assistant", "b"),
            ],
        ),
        ({"instruction": "a", "output": "b", "history": None}, [("user", "a"), ("assistant", "b")]),
    ],
)
def test_alpaca(row: Any, expected: list[tuple[str, str]]) -> None:
    assert kept(row, "alpaca") == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a"}, ("output.missing", "output")),
        ({"instruction": "a", "output": None}, ("output.missing", "output")),
        ({"instruction": "a", "output": 5}, ("output.type", "output")),
        ({"instruction": "a", "output": " "}, ("output.empty", "output")),
        ({"instruction": " ", "output": "b"}, ("instruction.empty", "instruction")),
        ({"instruction": 1, "output": "b"}, ("instruction.type", "instruction")),
        ({"instruction": "a", "input": [], "output": "b"}, ("input.type", "input")),
        ({"instruction": "a", "system": 5, "output": "b"}, ("system.type", "system")),
        ({"instruction": "a", "output": "b", "history": "x"}, ("history.type", "history")),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, ("history.pair", "history[0]")),
        ({"instruction": "a", "output": "b", "history": [["q", 1]]}, ("text.type", "history[0][1]")),
        ({"instruction": "a", "output": "b", "history": [["q", ""]]}, ("history.empty", "history[0]")),
        ({"messages": []}, ("instruction.empty", "instruction")),
    ],
)  # fmt: skip
def test_refused_alpaca(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "alpaca") == expected


def test_alpaca_tools_are_json_in_a_text() -> None:
    made, _ = formats.normalise(
        {"instruction": "a", "output": "b", "tools": '[{"name": "f"}]'}, "alpaca"
    )
    assert made["tools"] == [{"name": "f"}]


def test_neither_format() -> None:
    assert refused({"conversations": []}, "") == ("row.format", "")


def test_the_fingerprint_knows_content_and_order_but_not_ids() -> None:
    one, two = {"id": "a", "messages": [USER]}, {"id": "b", "messages": [BOT]}
    first = formats.fingerprint(formats.fingerprint("", one), two)
    assert first == formats.fingerprint(formats.fingerprint("", {**one, "id": "z"}), two)
    assert first != formats.fingerprint(formats.fingerprint("", two), one)


def test_names_out_of_a_file_are_made_fit_for_a_message() -> None:
    assert formats.shown("a\0\n\x1b" + "b" * 100) == "a���" + "b" * 56 + "…"
