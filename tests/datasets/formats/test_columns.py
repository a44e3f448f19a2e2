"""Which column is which field: given, guessed, or as dataset_info.json says it."""

from typing import Any

import pytest

from app.datasets import formats
from app.datasets.formats import BadRow, columns
from app.datasets.formats.dataset_info import mapping_of

ASK, SAY = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}


def mapped(raw: Any, mapping: Any) -> tuple[list[tuple[str, str]], set[str]]:
    row, unused = formats.normalise(raw, "", mapping)
    return [(one["role"], one["content"]) for one in row["messages"]], unused


# -- applying ----------------------------------------------------------------------------


def test_columns_become_fields_and_the_rest_is_named() -> None:
    mapping = {
        "format": "alpaca",
        "columns": {"instruction": "问题", "output": "d.a.0", "input": "x.y"},
    }
    raw = {"问题": "q", "d": {"a": ["r"], "b": 1}, "x.y": "i", "other": 2, "none": None}
    assert mapped(raw, mapping) == ([("user", "q\ni"), ("assistant", "r")], {"other"})


def test_numbers_become_texts_and_words_become_labels() -> None:
    mapping = {"format": "kto", "columns": {"prompt": "q", "completion": "a", "label": "ok"}}
    for given, label in (("是", True), ("FALSE", False), (1, True), (0.0, False), (True, True)):
        row, _ = formats.normalise({"q": "x", "a": 42, "ok": given}, "", mapping)
        assert (row["label"], row["messages"][1]["content"]) == (label, "42")
    with pytest.raises(BadRow) as caught:
        formats.normalise({"q": "x", "a": "b", "ok": "maybe"}, "", mapping)
    assert (caught.value.code, caught.value.path) == ("label.type", "ok")


def test_a_problem_is_reported_at_the_column() -> None:
    mapping = {"format": "alpaca", "columns": {"instruction": "问题", "output": "答.案"}}
    for raw, place in (({"问题": "q"}, "答.案"), ({"问题": ["q"], "答": {"案": "a"}}, "问题")):
        with pytest.raises(BadRow) as caught:
            formats.normalise(raw, "alpaca", mapping)
        assert caught.value.path == place


@pytest.mark.parametrize("path", ["a.b.c", "a.9", "a.-1", "", ".", "a..", "1" * 5000, "a.²"])
def test_paths_that_lead_nowhere(path: str) -> None:
    assert columns.value_at({"a": ["x"]}, path) is None


def test_a_format_without_columns_is_the_file_as_it_is() -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert formats.normalise(row, "", {"format": "messages"}) == (row, set())


def test_names() -> None:
    rows = [{"a": 1, "b": {"c": {"d": {"e": 1}}, "f": [1]}}, 5, {"g": 1, "a": 2}]
    assert columns.names(rows) == ["a", "b.c.d", "b.f", "g"]
    assert len(columns.names([{str(at): at for at in range(1000)}])) == columns.MAX_COLUMNS


# -- guessing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sample", "expected"),
    [
        (["问题", "答案"], None, ("completion", {"prompt": "问题", "completion": "答案"})),
        (["id", "Question", "Answer "], None, ("completion", {"prompt": "Question", "completion": "Answer "})),
        (["query", "response"], None, ("completion", {"prompt": "query", "completion": "response"})),
        (["提示词", "回答", "系统提示词"], None, ("completion", {"prompt": "提示词", "completion": "回答", "system": "系统提示词"})),
        (["指令", "输入", "输出"], None, ("alpaca", {"instruction": "指令", "input": "输入", "output": "输出"})),
        (["instruction", "context", "response", "category"], None, ("alpaca", {"instruction": "instruction", "input": "context", "output": "response"})),
        (["instruction", "question", "answer"], None, ("alpaca", {"instruction": "instruction", "input": "question", "output": "answer"})),
        (["输入", "输出"], None, ("completion", {"prompt": "输入", "completion": "输出"})),
        (["text", "label"], None, ("completion", {"prompt": "text", "completion": "label"})),
        (["内容", "标签"], None, ("completion", {"prompt": "内容", "completion": "标签"})),
        (["正文", "url"], None, ("text", {"text": "正文"})),
        (["prompt", "output"], None, ("completion", {"prompt": "prompt", "completion": "output"})),
        (["prompt", "chosen", "rejected"], None, ("preference", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"})),
        (["问题", "好的回答", "差的回答"], None, ("preference", {"prompt": "问题", "chosen": "好的回答", "rejected": "差的回答"})),
        (["问题", "回答", "标签"], {"标签": "好"}, ("kto", {"prompt": "问题", "completion": "回答", "label": "标签"})),
        (["data.question", "data.answer"], None, ("completion", {"prompt": "data.question", "completion": "data.answer"})),
        (["对话"], {"对话": [ASK, SAY]}, ("sharegpt", {"conversations": "对话"})),
        (["dialog"], {"dialog": [{"role": "user", "content": "a"}]}, ("messages", {"messages": "dialog"})),
        (["x", "y"], None, ("alpaca", {})),
        ([], None, ("alpaca", {})),
    ],
)  # fmt: skip
def test_guess(names: list[str], sample: Any, expected: tuple[str, dict[str, str]]) -> None:
    mapping = columns.guess(names, sample)
    assert (mapping["format"], mapping["columns"]) == expected


def test_tags_are_guessed_from_the_first_conversation() -> None:
    turns = [{"speaker": "甲", "text": "a"}, {"speaker": "乙", "text": "b"}]
    mapping = columns.guess(["会话", "n"], {"会话": turns})
    tags = {"role_tag": "speaker", "content_tag": "text", "user_tag": "甲", "assistant_tag": "乙"}
    assert mapping == {"format": "sharegpt", "columns": {"conversations": "会话"}, "tags": tags}
    assert mapped({"会话": turns}, mapping)[0] == [("user", "a"), ("assistant", "b")]


# -- dataset_info.json -------------------------------------------------------------------

OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "mapping", "notes"),
    [
        ({"file_name": "a.json"}, {"format": "alpaca"}, []),
        ({"ranking": True}, {"format": "preference"}, []),
        (
            {"columns": {"prompt": "q", "query": "i", "response": "r", "system": "s", "history": "h"}},
            {"format": "alpaca", "columns": {"instruction": "q", "input": "i", "output": "r", "history": "h", "system": "s"}},
            [],
        ),
        # LLaMA-Factory loses the answer here, without a word
        ({"columns": {"prompt": "q"}}, {"format": "alpaca", "columns": {"instruction": "q", "output": "output"}}, ["info.response"]),
        ({"columns": {"prompt": "text"}}, {"format": "text", "columns": {"text": "text"}}, []),
        (
            {"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
            {"format": "preference", "columns": {"instruction": "q", "chosen": "c", "rejected": "r"}},
            [],
        ),
        (
            {"columns": {"prompt": "q", "response": "r", "kto_tag": "k"}},
            {"format": "kto", "columns": {"instruction": "q", "output": "r", "kto_tag": "k"}},
            [],
        ),
        ({"formatting": "sharegpt"}, {"format": "sharegpt"}, []),
        (
            {"formatting": "sharegpt", "columns": {"messages": "c", "tools": "t"}},
            {"format": "sharegpt", "columns": {"conversations": "c", "tools": "t"}},
            [],
        ),
        (
            {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS},
            {"format": "messages", "columns": {"messages": "messages"}},
            ["info.tags"],
        ),
        (
            {"formatting": "sharegpt", "tags": {"role_tag": "who"}},
            {"format": "sharegpt", "tags": {"role_tag": "who"}},
            ["info.tags"],
        ),
        ({"formatting": "openai", "columns": {"messages": "m"}}, {"format": "messages", "columns": {"messages": "m"}}, []),
        (
            {"formatting": "sharegpt", "ranking": True, "columns": {"messages": "c", "chosen": "x", "rejected": "y"}},
            {"format": "preference", "columns": {"conversations": "c", "chosen": "x", "rejected": "y"}},
            [],
        ),
        ({"format": "sharegpt"}, {"format": "sharegpt"}, ["info.format"]),
        ({"formating": "sharegpt", "num_samples": 5}, {"format": "alpaca"}, ["info.unapplied", "info.unknown"]),
        (
            {"columns": {"prompt": "q", "response": "r", "images": "i"}},
            {"format": "alpaca", "columns": {"instruction": "q", "output": "r"}},
            ["info.media"],
        ),
    ],
)  # fmt: skip
def test_dataset_info(entry: Any, mapping: Any, notes: list[str]) -> None:
    fields = ("q", "output") if entry.get("columns") == {"prompt": "q"} else ()
    found, said = mapping_of(entry, fields)
    assert found == mapping
    assert [note.code for note in said] == notes
    assert all(note.message % note.params for note in said)


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        (5, ""),
        ({"formatting": "x"}, "formatting"),
        ({"formatting": ["alpaca"]}, "formatting"),
        ({"columns": []}, None),
        ({"columns": 5}, "columns"),
        ({"columns": {"instruction": "a"}}, "columns.instruction"),
        ({"columns": {"prompt": 5}}, "columns.prompt"),
        ({"tags": {"x": "y"}}, "tags.x"),
    ],
)
def test_entries_that_cannot_be_understood(entry: Any, path: str | None) -> None:
    if path is None:
        assert mapping_of(entry)[0] == {"format": "alpaca"}
        return
    with pytest.raises(BadRow) as caught:
        mapping_of(entry)
    assert caught.value.path == path
    assert caught.value.message % caught.value.params
