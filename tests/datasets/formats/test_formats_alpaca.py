"""Alpaca rows, as LLaMA-Factory reads them."""

from typing import Any

import pytest

from app.datasets import formats
from tests.datasets.formats.test_formats import kept, refused


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
        (
            {"instruction": "a", "output": "b", "history": '[["q", "r"]]'},
            [("user", "q"), ("assistant", "r"), ("user", "a"), ("assistant", "b")],
        ),
        ({"instruction": "a", "output": "b", "history": None}, [("user", "a"), ("assistant", "b")]),
        ({"instruction": "a", "output": "b", "history": ""}, [("user", "a"), ("assistant", "b")]),
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
        ({"messages": []}, ("row.other_format", "")),
        ({}, ("instruction.empty", "instruction")),
    ],
)  # fmt: skip
def test_refused_alpaca(row: Any, expected: tuple[str, str]) -> None:
    assert refused(row, "alpaca") == expected


def test_alpaca_tools_are_json_in_a_text() -> None:
    made, _ = formats.normalise(
        {"instruction": "a", "output": "b", "tools": '[{"name": "f"}]'}, "alpaca"
    )
    assert made["tools"] == [{"type": "function", "function": {"name": "f"}}]
