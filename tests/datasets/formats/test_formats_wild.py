"""Rows that nobody would write: only BadRow comes of them, or a row that reads as itself."""

import random
from typing import Any

import orjson
import pytest

from app.datasets import formats
from app.datasets.formats import BadRow, columns
from app.datasets.formats.export import EXPORTS, write
from app.datasets.formats.remarks import remarks

NAMES = [
    "messages", "conversations", "instruction", "input", "output", "system", "history", "tools",
    "prompt", "completion", "text", "chosen", "rejected", "preferred_output", "non_preferred_output",
    "label", "kto_tag", "functions", "x",
]  # fmt: skip
INNER = [
    "role", "content", "from", "value", "name", "weight", "loss_weight", "tool_calls", "function",
    "tool_call_id", "function_call", "reasoning_content", "type", "text", "id", "arguments", "messages",
]  # fmt: skip
WORDS = [
    "", " ", "a", "user", "assistant", "system", "tool", "human", "gpt", "function_call", "function",
    "observation", "[]", "{}", "[{}]", "null", '{"name": "f"}', "[1]", "a\0b", "<think>", "true",
    '[{"role": "user", "content": "a"}]', "\ufffe", "😀",
]  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "1"}, {"role": "assistant", "content": "b", "weight": 1}], "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"instruction": "a", "input": "i", "output": "b", "history": [["q", "r"]], "system": "s"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}, {"from": "observation", "value": "1"}, {"from": "gpt", "value": "b"}]},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"prompt": "a", "completion": "b", "label": True},
    {"text": "a"},
    {"messages": [{"role": "user", "content": "a"}], "chosen": {"role": "assistant", "content": "b"}, "rejected": "c"},
    {"input": {"messages": [{"role": "user", "content": "a"}]}, "preferred_output": [{"role": "assistant", "content": "b"}], "non_preferred_output": [{"role": "assistant", "content": "c"}]},
    {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]},
]  # fmt: skip


def wild(rng: random.Random, depth: int = 0) -> Any:
    choice = rng.randrange(9 if depth < 4 else 6)
    if choice < 3:
        return rng.choice(WORDS)
    if choice < 6:
        return rng.choice([None, True, False, 0, 1, -1, 0.5, 1e308, 2**63, [], {}])
    if choice == 6:
        return [wild(rng, depth + 1) for _ in range(rng.randrange(3))]
    names = NAMES if depth == 0 else INNER
    return {name: wild(rng, depth + 1) for name in rng.sample(names, rng.randrange(4))}


def changed(value: Any, rng: random.Random) -> Any:
    """`value` with something in it replaced, left out, doubled or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        rest = {key: one for key, one in value.items() if key != name or rng.random() < 0.85}
        if name in rest:
            rest[name] = changed(value[name], rng)
        if rng.random() < 0.15:
            rest[rng.choice(NAMES + INNER)] = wild(rng, 1)
        return rest
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        made = [*value[:at], changed(value[at], rng), *value[at + 1 :]]
        return made + made[-1:] if rng.random() < 0.15 else made
    return wild(rng, 1)


@pytest.mark.parametrize("seed", range(4))
def test_only_bad_rows_come_of_wild_ones(seed: int) -> None:
    rng = random.Random(seed)
    good = 0
    said: list[str] = []
    for number in range(4000):
        row = wild(rng) if number % 5 == 0 else changed(rng.choice(ROWS), rng)
        for form in {formats.detect(row), rng.choice([*formats.FORMATS, ""])}:
            try:
                made, unused = formats.normalise(row, form)
            except BadRow as bad:
                said.append(bad.message % bad.params)
                continue
            good += 1
            assert all(isinstance(name, str) for name in unused)
            assert orjson.dumps({"data": [made]})
            said += [one.message % one.params for one in remarks(made)]
            kind = formats.KINDS[form]
            kept = {"sft": "messages", "pretrain": "text"}.get(kind, kind)
            assert formats.normalise(orjson.loads(orjson.dumps(made)), kept) == (made, set())
            for target in EXPORTS[kind]:
                try:
                    write(made, target)
                except BadRow:
                    continue
    assert good > 300
    assert len(set(said)) > 50


def test_wild_mappings() -> None:
    rng = random.Random(6)
    said: set[str] = set()
    for _ in range(3000):
        row = {"甲": wild(rng, 1), "b": {"c": wild(rng, 2)}, "d.e": 1}
        form = rng.choice(formats.FORMATS)
        places = ["甲", "b.c", "b.c.0", "d.e", "b", "none"]
        given = {name: rng.choice(places) for name in columns.FIELDS[form]}
        names = columns.names([row])
        assert columns.guess(names, row)["format"] in formats.FORMATS
        try:
            formats.normalise(row, "", {"format": form, "columns": given})
        except BadRow as bad:
            said.add(bad.message % bad.params)
    assert len(said) > 10
