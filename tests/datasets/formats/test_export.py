"""Exports: what is written reads again as the same rows; what cannot be written says why."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.orm import Session

from app import storage
from app.datasets import formats
from app.datasets.formats import BadRow
from app.datasets.formats.export import ANY_ROW, CSV_COLUMNS, EXPORTS, write
from app.datasets.rows import segments
from tests.conftest import Client
from tests.datasets.formats.test_formats import BOT, CALL, CALLS, SYSTEM, TOLD, USER
from tests.datasets.test_routes import one, page, test_id
from tests.factories import make_dataset

SOURCE = {"danlu": "", "chatml": "messages"}  # the format an export is read as, if not by its name
WORDS = [
    "你好",
    "a",
    " b\n",
    '"q"',
    "<think>\nx\n</think>\n\n",
    "=1+1",
    "a,b",
    "[1]",
    "\r\nx",
    "🙂",
    "{}",
    "\\n",
]
WORDS += ['[{"role": "user", "content": "x"}]']


def text(rng: random.Random, empty: bool = False) -> str:
    if empty and rng.random() < 0.15:
        return ""
    return "".join(rng.choices(WORDS, k=rng.randint(1, 4))) + "。"


def dialogue(rng: random.Random) -> list[dict[str, Any]]:
    """A conversation that ends with the user or a tool, or with the assistant."""
    plain = rng.random() < 0.6
    turns: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        turns.append({"role": "system", "content": text(rng, empty=not plain)})
    for number in range(rng.randint(1, 3)):
        turns.append({"role": "user", "content": text(rng, empty=not plain)})
        if not plain and rng.random() < 0.2:
            turns[-1]["name"] = "lin"
        if not plain and rng.random() < 0.5:
            count = rng.randint(1, 3)
            calls = [
                {"id": f"c{number}.{at}", "type": "function", "function": {
                    "name": rng.choice(["f", "g"]), "arguments": rng.choice([{}, {"x": 1.5, "y": [None, "你"]}])}}
                for at in range(count)
            ]  # fmt: skip
            said = rng.choice(["", "", "<think>hm</think>\n", "let me see"])
            turns.append({"role": "assistant", "content": said, "tool_calls": calls})
            for call in calls[: rng.choice([1, count])]:
                turns.append(
                    {"role": "tool", "content": text(rng, empty=True), "tool_call_id": call["id"]}
                )
                if rng.random() < 0.2:
                    turns[-1]["name"] = call["function"]["name"]
        turns.append({"role": "assistant", "content": text(rng)})
        if not plain and rng.random() < 0.3:
            turns[-1]["weight"] = rng.choice([0, 0.5, 1])
        if not plain and rng.random() < 0.2:
            turns[-1]["reasoning_content"] = text(rng)
    return turns


def row_of(kind: str, rng: random.Random) -> dict[str, Any]:
    """A row as it is kept, of any kind."""
    if kind == "pretrain":
        return {"text": text(rng)}
    turns = dialogue(rng)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    row: dict[str, Any] = {"messages": turns}
    if kind == "preference":
        answers = (
            {"role": "assistant", "content": "A" + text(rng)},
            {"role": "assistant", "content": "B" + text(rng)},
        )
        row = {"messages": turns[:-1], "chosen": answers[0], "rejected": answers[1]}
    elif kind == "kto":
        row["label"] = rng.random() < 0.5
    if rng.random() < 0.3:
        row["tools"] = tools
    form = {"sft": "messages"}.get(kind, kind)
    return formats.normalise(row, form)[0]


def read(made: dict[str, Any], form: str) -> dict[str, Any]:
    if form in CSV_COLUMNS:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, CSV_COLUMNS[form], restval="", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerow(made)
        made = next(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    made = orjson.loads(orjson.dumps(made))
    found = formats.detect(made)
    row, unused = formats.normalise(made, found)
    assert unused - {"id"} == set()
    return row


def linked(row: dict[str, Any]) -> dict[str, Any]:
    """The row with calls numbered by their order, and answers without the name that repeats one."""
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    turns = orjson.loads(orjson.dumps(row.get("messages", [])))
    for turn in turns:
        for call in turn.get("tool_calls", []):
            ids[call["id"]] = f"n{len(ids)}"
            names[call["id"]] = call["function"]["name"]
            call["id"] = ids[call["id"]]
        if turn["role"] == "tool":
            if turn.get("name") == names[turn["tool_call_id"]]:
                del turn["name"]
            turn["tool_call_id"] = ids[turn["tool_call_id"]]
    return {**row, "messages": turns} if turns else row


@pytest.mark.parametrize("kind", list(EXPORTS))
def test_what_is_exported_reads_as_the_same_rows(kind: str) -> None:
    rng = random.Random(7)
    written = dict.fromkeys(EXPORTS[kind], 0)
    for _ in range(1500):
        row = row_of(kind, rng)
        for form in EXPORTS[kind]:
            try:
                made = write(row, form)
            except BadRow:
                assert form not in ANY_ROW
                continue
            written[form] += 1
            again = read(made, form)
            same = linked if "sharegpt" in form else lambda one: one
            assert same(again) == same(row), form
            assert formats.KINDS[formats.detect(made)] == kind
    assert all(written.values()), written


def test_the_forms_are_those_that_people_know() -> None:
    row = {"messages": [SYSTEM, USER, CALLS, TOLD, BOT], "tools": [{"type": "function", "function": {"name": "now"}}]}  # fmt: skip
    call = {**CALL, "function": {"name": "now", "arguments": "{}"}}
    assert write(row, "messages")["messages"][2]["tool_calls"] == [call]
    shared = write(row, "sharegpt")
    assert [turn["from"] for turn in shared["conversations"]] == [
        "system", "human", "function_call", "observation", "gpt",
    ]  # fmt: skip
    assert json.loads(shared["conversations"][2]["value"]) == {"name": "now", "arguments": {}}
    assert json.loads(shared["tools"])[0]["function"]["name"] == "now"
    plain = {"messages": [SYSTEM, USER, BOT, USER, BOT]}
    assert write(plain, "alpaca") == {
        "instruction": "你好",
        "input": "",
        "output": "您好！",
        "system": "Be brief.",
        "history": [["你好", "您好！"]],
    }
    weighed = {"messages": [USER, {**BOT, "weight": 0.0}, USER, {**BOT, "weight": 1.0}]}
    assert [one.get("weight") for one in write(weighed, "messages")["messages"]] == [
        None,
        0,
        None,
        1,
    ]
    pair = {"messages": [USER], "chosen": BOT, "rejected": {**BOT, "content": "x"}}
    assert set(write(pair, "preference-openai")) == {"input", "preferred_output", "non_preferred_output"}  # fmt: skip


# -- as files ----------------------------------------------------------------------------

ROWS = [
    {"messages": [USER, BOT]},
    {"messages": [SYSTEM, USER, BOT, USER, BOT]},
    {"messages": [USER, CALLS, TOLD, BOT]},
]


@pytest.fixture
def path(client: Client, db: Session, tmp_path: Path) -> str:
    """The address of a dataset of ROWS, below /api/v1."""
    written = segments.write(({"id": f"v.{at}", **row} for at, row in enumerate(ROWS, 1)), tmp_path)
    storage.put(tmp_path, written.artefact)
    version = make_dataset(
        db,
        client.workspace,
        name="客服",
        rows=len(ROWS),
        segments=[{"artefact": written.artefact, "rows": len(ROWS)}],
    )
    db.commit()
    return f"/api/v1/datasets/{version.dataset_id}"


def test_export(client: Client, path: str) -> None:
    answer = client.get(f"{path}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jsonl"
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="---v1-messages.jsonl"')
    assert "filename*=UTF-8''%E5%AE%A2%E6%9C%8D-v1-messages.jsonl" in disposition
    read_again = [orjson.loads(line) for line in answer.content.splitlines()]
    assert [formats.normalise(row, "messages")[0] for row in read_again] == ROWS
    ours = client.get(f"{path}/export", params={"format": "danlu"}).content.splitlines()
    assert orjson.loads(ours[0])["id"].endswith(".1")


def test_a_row_that_does_not_fit_is_named(client: Client, path: str) -> None:
    answer = client.get(f"{path}/export", params={"format": "alpaca"})
    assert answer.status_code == 409
    assert answer.json()["code"] == "export.unfit"
    assert "Row 3 cannot be written as “alpaca”. It calls tools" in answer.json()["detail"]
    answer = client.get(f"{path}/export", params={"format": "alpaca", "skip_unfit": True})
    assert len(answer.content.splitlines()) == 2


def test_a_table(client: Client, path: str) -> None:
    asked = {"format": "completion-csv", "skip_unfit": "true"}
    answer = client.get(f"{path}/export", params=asked)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert ".csv" in answer.headers["content-disposition"]
    found = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert found == [{"prompt": "你好", "completion": "您好！"}]


@pytest.mark.parametrize("form", ["text", "preference", "x", "../x"])
def test_formats_that_cannot_hold_the_rows(client: Client, path: str, form: str) -> None:
    answer = client.get(f"{path}/export", params={"format": form})
    assert (answer.status_code, answer.json()["code"]) == (422, "export.format")


def test_what_each_format_can_carry(client: Client, path: str) -> None:
    found = {offer["format"]: offer for offer in client.get(f"{path}/exports").json()["data"]}
    assert set(found) == set(EXPORTS["sft"])
    assert found["messages"]["carries_all"]
    assert found["sharegpt"]["carries_all"]
    assert [found["alpaca"][name] for name in ("unfit", "first_unfit", "why")] == [
        1, 2, "It calls tools, which this format cannot say.",
    ]  # fmt: skip
    soup = page(client.get(f"{path.removeprefix('/api/v1')}/exports"))
    assert "skip_unfit" in str(one(soup, test_id("export-alpaca"))["href"])
    assert "skip_unfit" not in str(one(soup, test_id("export-sharegpt"))["href"])
    versions = page(client.get(f"{path.removeprefix('/api/v1')}/versions"))
    assert str(one(versions, test_id("version-export"))["href"]).endswith("/exports?version=1")
