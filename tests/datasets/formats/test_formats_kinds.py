"""ShareGPT, prompt and completion, plain text, preferences, KTO; and what is only odd."""

from typing import Any

import orjson
import pytest

from app.datasets import formats
from app.datasets.formats.remarks import remarks
from tests.datasets.formats.test_formats import BOT, CALL, CALLS, SYSTEM, TOLD, USER, kept, refused

ASK = {"from": "human", "value": "你好"}
SAY = {"from": "gpt", "value": "您好！"}
DO = {"from": "function_call", "value": '{"name": "now", "arguments": {}}'}
SEE = {"from": "observation", "value": "noon"}
BETTER, WORSE = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}


# -- sharegpt ----------------------------------------------------------------------------


def test_sharegpt() -> None:
    row = {"conversations": [ASK, SAY, ASK, SAY], "system": "s", "source": "x"}
    made, unused = formats.normalise(row, "sharegpt")
    assert made == {"messages": [{"role": "system", "content": "s"}, USER, BOT, USER, BOT]}
    assert unused == {"source"}


def test_a_system_turn_wins_over_the_column() -> None:
    turns = [{"from": "system", "value": "t"}, ASK, SAY]
    assert kept({"conversations": turns, "system": "s"}, "sharegpt")[0] == ("system", "t")
    assert kept({"conversations": [ASK, SAY], "system": ""}, "sharegpt")[0] == ("user", "你好")


def test_a_function_call_becomes_a_tool_call() -> None:
    tools = orjson.dumps([{"name": "now", "description": "d", "parameters": {}}]).decode()
    made, _ = formats.normalise({"conversations": [ASK, DO, SEE, SAY], "tools": tools}, "sharegpt")
    call = {**CALL, "id": "call00001"}
    told = {**TOLD, "tool_call_id": "call00001"}
    assert made["messages"] == [USER, {**CALLS, "tool_calls": [call]}, told, BOT]
    assert made["tools"][0]["function"]["name"] == "now"


def test_parallel_calls_have_one_observation() -> None:
    value = '<think>hm</think>\n[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": "{}"}]'
    turns = [ASK, {"from": "function_call", "value": value}, SEE, SAY]
    made = formats.normalise({"conversations": turns}, "sharegpt")[0]["messages"]
    assert made[1]["content"] == "<think>hm</think>\n"
    assert [call["function"]["arguments"] for call in made[1]["tool_calls"]] == [{"x": 1}, {}]
    assert made[2]["tool_call_id"] == made[1]["tool_calls"][0]["id"]


def test_other_names_of_roles() -> None:
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    assert kept({"conversations": turns}, "sharegpt") == [("user", "a"), ("assistant", "b")]


def test_tags_of_ones_own() -> None:
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "A", "assistant_tag": "B"}
    turns = [{"who": "A", "said": "a"}, {"who": "B", "said": "b"}]
    mapping = {"format": "sharegpt", "columns": {"conversations": "talk"}, "tags": tags}
    made, unused = formats.normalise({"talk": turns, "x": 1}, "", mapping)
    assert [one["content"] for one in made["messages"]] == ["a", "b"]
    assert unused == {"x"}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("x", ("conversations.type", "conversations")),
        ([], ("messages.empty", "conversations")),
        ([1], ("message.type", "conversations[0]")),
        ([{"value": "a"}], ("role.missing", "conversations[0].from")),
        ([{"from": 1, "value": "a"}], ("role.type", "conversations[0].from")),
        ([{"from": "bot", "value": "a"}], ("role.unknown", "conversations[0].from")),
        ([{"from": "human"}], ("content.missing", "conversations[0].value")),
        ([{"from": "human", "value": 1}], ("content.type", "conversations[0].value")),
        ([SAY], ("turn.parity", "conversations[0].from")),
        ([{"from": "system", "value": "s"}, SAY], ("turn.parity", "conversations[1].from")),
        ([ASK, ASK], ("turn.parity", "conversations[1].from")),
        ([ASK, SAY, SAY], ("turn.parity", "conversations[2].from")),
        ([ASK, DO, SEE, SEE], ("turn.parity", "conversations[3].from")),
        ([ASK, {"from": "system", "value": "s"}], ("turn.system", "conversations[1].from")),
        ([ASK], ("turn.last", "conversations[0].from")),
        ([ASK, {**SAY, "value": " "}], ("content.empty", "conversations[1].value")),
        ([ASK, SAY, SEE, SAY], ("turn.tool", "conversations[2].role")),
        ([SEE, SAY], ("turn.tool", "conversations[0].role")),
        ([ASK, DO, ASK, SAY], ("tool_calls.unanswered", "conversations[1].tool_calls")),
        ([ASK, {**DO, "value": "now()"}, SEE, SAY], ("function_call.invalid", "conversations[1].value")),
        ([ASK, {**DO, "value": "[]"}, SEE, SAY], ("function_call.invalid", "conversations[1].value")),
        ([ASK, {**DO, "value": '{"a": 1}'}, SEE, SAY], ("function_call.invalid", "conversations[1].value")),
        ([ASK, {**DO, "value": '{"name": 5}'}, SEE, SAY], ("tool_calls.function", "conversations[1].value")),
    ],
)  # fmt: skip
def test_refused_sharegpt(turns: Any, expected: tuple[str, str]) -> None:
    assert refused({"conversations": turns}, "sharegpt") == expected


# -- prompt and completion, text -----------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"prompt": "[1] a", "completion": "[2]"}, [("user", "[1] a"), ("assistant", "[2]")]),
        (
            {"system": "s", "prompt": "a", "completion": "b"},
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        (
            {"prompt": [SYSTEM, USER], "completion": [BOT]},
            [("system", "Be brief."), ("user", "你好"), ("assistant", "您好！")],
        ),
        (
            {"prompt": orjson.dumps([USER]).decode(), "completion": "b"},
            [("user", "你好"), ("assistant", "b")],
        ),
    ],
)
def test_completion(row: Any, expected: list[tuple[str, str]]) -> None:
    assert kept(row, "completion") == expected


def test_only_the_completion_is_learned() -> None:
    row = {"prompt": [USER, BOT, USER], "completion": [CALLS, TOLD, BOT]}
    made = formats.normalise(row, "completion")[0]["messages"]
    assert [one.get("weight") for one in made] == [None, 0, None, None, None, None]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a"}, ("completion.missing", "completion")),
        ({"completion": "a"}, ("prompt.missing", "prompt")),
        ({"prompt": 1, "completion": "b"}, ("prompt.type", "prompt")),
        ({"prompt": "a", "completion": 2}, ("completion.type", "completion")),
        ({"prompt": "a", "completion": " "}, ("content.empty", "completion")),
        ({"prompt": [], "completion": "b"}, ("messages.empty", "prompt")),
        ({"prompt": [{"role": "x"}], "completion": "b"}, ("role.unknown", "prompt[0].role")),
        ({"prompt": "a", "completion": [USER]}, ("turn.last", "completion[0].role")),
        ({"prompt": [BOT], "completion": "b"}, ("turn.first", "prompt[0].role")),
        ({"prompt": [USER, BOT], "completion": [TOLD, BOT]}, ("turn.tool", "completion[0].role")),
        ({"messages": [USER, BOT]}, ("row.other_format", "")),
    ],
)
def test_refused_completion(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "completion") == expected


def test_text() -> None:
    assert formats.normalise({"text": "a", "url": "b"}, "text") == ({"text": "a"}, {"url"})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": None}, ("text.missing", "text")),
        ({"text": 5}, ("text.type", "text")),
        ({"text": "\n"}, ("text.empty", "text")),
        ({"text": "a\0"}, ("text.nul", "text")),
        ({"text": "a", "messages": [USER, BOT]}, ("row.other_format", "")),
    ],
)
def test_refused_text(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "text") == expected


# -- preferences -------------------------------------------------------------------------

PAIR = {"chosen": BETTER, "rejected": WORSE}


@pytest.mark.parametrize(
    "row",
    [
        {"input": {"messages": [USER], "parallel_tool_calls": True}, "preferred_output": [BETTER],
         "non_preferred_output": [WORSE]},
        {"messages": [USER], **PAIR},
        {"messages": [USER], "chosen": "b", "rejected": "c"},
        {"instruction": "你好", "input": "", "chosen": "b", "rejected": "c"},
        {"conversations": [ASK], "chosen": {"from": "gpt", "value": "b"},
         "rejected": {"from": "gpt", "value": "c"}},
        {"conversations": [ASK], **PAIR},
        {"prompt": "你好", "chosen": "b", "rejected": "c"},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
    ],
)  # fmt: skip
def test_preferences(row: Any) -> None:
    assert formats.detect(row) == "preference"
    made, unused = formats.normalise(row, "preference")
    assert made == {"messages": [USER], **PAIR}
    assert list(made) == ["messages", "chosen", "rejected"]
    assert unused == set()


def test_a_preference_with_tools_and_history() -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    given = {"messages": [SYSTEM, USER, CALLS, TOLD], "tools": tools}
    row = {"input": given, "preferred_output": [BETTER], "non_preferred_output": [WORSE]}
    made, _ = formats.normalise(row, "preference")
    assert made == {"messages": given["messages"], **PAIR, "tools": tools}


def test_whole_conversations_beside_a_prompt() -> None:
    whole = {"chosen": [USER, BETTER], "rejected": [USER, WORSE]}
    made, unused = formats.normalise({"prompt": "你好", "score": 1, **whole}, "preference")
    assert made["messages"] == [USER]
    assert unused == {"prompt", "score"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER], "chosen": BETTER}, ("rejected.missing", "rejected")),
        ({"messages": [USER], "rejected": BETTER}, ("chosen.missing", "chosen")),
        ({"messages": [USER], "chosen": BETTER, "rejected": None}, ("rejected.missing", "rejected")),
        ({"messages": [USER], "chosen": BETTER, "rejected": BETTER}, ("preference.same", "rejected")),
        ({"messages": [USER], "chosen": USER, "rejected": BETTER}, ("answer.role", "chosen.role")),
        ({"messages": [USER], "chosen": 5, "rejected": BETTER}, ("answer.type", "chosen")),
        ({"messages": [USER], "chosen": [BETTER, USER], "rejected": BETTER}, ("answer.many", "chosen")),
        ({"messages": [USER], "chosen": "", "rejected": BETTER}, ("content.empty", "chosen")),
        ({"messages": [USER, BOT], **PAIR}, ("turn.prompt", "messages[1].role")),
        ({"messages": [SYSTEM], **PAIR}, ("turn.first", "messages[0].role")),
        ({"conversations": [ASK], **PAIR, "chosen": ASK}, ("answer.role", "chosen.from")),
        ({"chosen": "a", "rejected": "b"}, ("prompt.missing", "prompt")),
        ({"chosen": [USER, BETTER], "rejected": [SYSTEM, USER, WORSE]}, ("preference.prompts", "rejected")),
        ({"chosen": [USER], "rejected": [USER]}, ("turn.last", "chosen[0].role")),
        ({"input": 5, "preferred_output": [], "non_preferred_output": []}, ("input.type", "input")),
        (
            {"input": {"messages": [USER]}, "preferred_output": [], "non_preferred_output": [BETTER]},
            ("answer.many", "preferred_output"),
        ),
        ({"input": {}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]}, ("messages.missing", "input.messages")),
        ({"input": {"messages": [USER]}, "preferred_output": [BETTER]}, ("rejected.missing", "non_preferred_output")),
        ({"messages": [USER, BOT]}, ("row.other_format", "")),
    ],
)  # fmt: skip
def test_refused_preferences(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "preference") == expected


# -- kto ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, BOT], "label": True},
        {"messages": [USER, BOT], "kto_tag": True},
        {"prompt": "你好", "completion": "您好！", "label": True},
        {"prompt": [USER], "completion": [BOT], "label": True},
        {"instruction": "你好", "input": "", "output": "您好！", "kto_tag": True},
        {"conversations": [ASK, SAY], "kto_tag": True, "label": True},
    ],
)
def test_kto(row: Any) -> None:
    assert formats.detect(row) == "kto"
    made, unused = formats.normalise(row, "kto")
    assert made == {"messages": [USER, BOT], "label": True}
    assert unused == set()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, BOT], "label": "true"}, ("label.type", "label")),
        ({"messages": [USER, BOT], "label": 1}, ("label.type", "label")),
        ({"messages": [USER, BOT], "label": None}, ("label.missing", "label")),
        ({"messages": [USER, BOT], "label": True, "kto_tag": False}, ("label.both", "kto_tag")),
        ({"messages": [USER], "label": True}, ("assistant.missing", "messages")),
        ({"messages": [USER, BOT]}, ("row.other_format", "")),
    ],
)
def test_refused_kto(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "kto") == expected


# -- remarks -----------------------------------------------------------------------------


def test_what_is_odd_is_remarked() -> None:
    think = {"role": "assistant", "content": "<think>\na\n</think>\n\nb"}
    silent = {**BOT, "weight": 0.0}
    tools = [{"type": "function", "function": {"name": "other"}}]
    assert remarks({"messages": [USER, think]}) == []
    assert remarks({"text": "<think>"}) == []

    def said(row: Any) -> list[tuple[str, str]]:
        found = remarks(row)
        assert all(one.message % one.params for one in found)
        return [(one.code, one.path) for one in found]

    assert said({"messages": [USER, think, USER, BOT]}) == [("think.early", "messages[1].content")]
    assert said({"messages": [USER, {**think, "content": "<think>a"}]})[0][0] == "think.open"
    assert said({"messages": [USER, silent]}) == [("weight.none", "messages")]
    assert said({"messages": [USER, CALLS], "tools": tools}) == [
        ("tool_calls.undeclared", "messages[1].tool_calls[0].function.name")
    ]
