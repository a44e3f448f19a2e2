"""The quick way and the exact way give the same rows, bytes, hashes and reports."""

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.datasets import formats
from app.datasets.rows import segments
from app.datasets.validation import quick, validate
from tests.datasets.validation.test_validate import plain

TEXTS = [
    "a", "问题", "", " ", "\n\t", "\u3000", "\u200b", "a\0b", "é", "\x7f", "\x1f", "\u2028", "😀",
    '"quoted" \\ / </script>', "\ud7ff\ue000\uffff", "\x85", "tab\there", "line\r\nend", "x" * 700,
    "<think>why</think>because", None, 5, 1.5, True, [], {}, ["a"],
    [{"type": "text", "text": "part"}],
]  # fmt: skip
ROLES = ["system", "user", "assistant", "assistant", "user", "tool", "developer", "x", "", None, 1]


def turn(pick: random.Random, role: Any = None) -> Any:
    made: dict[str, Any] = {
        "role": pick.choice(ROLES) if role is None or pick.random() < 0.05 else role,
        "content": pick.choice(TEXTS[:4] + TEXTS) if pick.random() < 0.3 else "text",
    }
    if pick.random() < 0.05:
        name, value = pick.choice(
            [("name", "lin"), ("weight", 0), ("weight", 1), ("loss_weight", 0.5), ("mood", None),
             ("tool_calls", []), ("reasoning_content", "why"), ("refusal", "")]
        )  # fmt: skip
        made[name] = value
    if pick.random() < 0.05:
        made = dict(reversed(list(made.items())))
    if pick.random() < 0.02:
        made.pop(pick.choice(list(made)))
    return made


def row(pick: random.Random) -> Any:
    kind = pick.choice(["messages"] * 3 + ["alpaca", "alpaca", "text", "other"])
    made: Any
    if kind == "messages":
        roles = pick.choice([[], ["system"]]) + ["user", "assistant"] * pick.choice([0, 1, 1, 2])
        made = {"messages": [turn(pick, role) for role in roles]}
    elif kind == "alpaca":
        names = ["instruction", "output"]
        names += [one for one in ("input", "system", "history") if pick.random() < 0.3]
        made = {name: pick.choice(TEXTS) if pick.random() < 0.4 else "text" for name in names}
    elif kind == "text":
        made = {"text": pick.choice(TEXTS)}
    else:
        made = pick.choice([{}, [], None, 7, "text", {"messages": None}, {"conversations": []}])
    if isinstance(made, dict) and pick.random() < 0.08:
        made[pick.choice(["tools", "label", "source", "id", "chosen", "messages", "text"])] = (
            pick.choice([None, "", "x", [], True, 1])
        )
    return made


def line(pick: random.Random) -> bytes:
    """A line of a file: as some writer of JSON would have it, sometimes broken."""
    made = row(pick)
    separators = pick.choice([None, (",", ":"), (" , ", " :\t")])
    text = json.dumps(made, ensure_ascii=pick.random() < 0.5, separators=separators)
    data = text.encode(errors="surrogatepass")
    if pick.random() < 0.1:
        data = data.replace(b'"content"', b'"content": "twice", "content"', 1)
    if pick.random() < 0.1:
        at = pick.randrange(len(data) + 1)
        junk = [b"\\u0041", b"\\/", b"\xff", b"\x00", b"\\ud800", b",", b"}", b"\\", b"\x1f", b" ",
                b"\xed\xa0\x80", b'{"a": 1}', b"NaN", b"[" * 1200]  # fmt: skip
        data = data[:at] + pick.choice(junk) + data[at + pick.randrange(2) :]
    pad = pick.choice([b"", b"", b" ", b"\t", b"\r", b"\x0b", b"\xef\xbb\xbf"])
    return (pad + data if pick.random() < 0.5 else data + pad).replace(b"\n", b" ")


@pytest.mark.parametrize("form", list(quick.READERS))
@pytest.mark.parametrize("seed", range(8))
def test_what_is_read_quickly_is_what_the_exact_way_reads(form: str, seed: int) -> None:
    pick = random.Random(seed)
    taken = 0
    for _ in range(4000):
        data = line(pick)
        try:
            body = quick.READERS[form]([data], data).removesuffix(b"\n")
        except quick.REFUSED:
            continue
        taken += 1
        made, unused = formats.normalise(orjson.loads(data.strip()), form)
        assert orjson.dumps(made) == body, data
        assert unused == set(), data
    assert taken > 50


def test_texts_that_only_look_like_texts_go_the_exact_way() -> None:
    def refused(content: str, *, first: bool = False) -> bool:
        contents = (content, '"fine"') if first else ('"fine"', content)
        turns = zip(("user", "assistant"), contents, strict=True)
        made = ",".join(f'{{"role":"{role}","content":{text}}}' for role, text in turns)
        data = f'{{"messages":[{made}]}}'.encode()
        try:
            quick.conversations([data], data)
        except quick.REFUSED:
            return True
        return False

    blank = ["", *quick.SPACES, "\\n", "\\r \\t\\f", "\u3000\\n", " \u2003"]
    assert all(refused(f'"{text}"') for text in blank)
    assert not any(refused(f'"{text}"', first=True) for text in blank)
    assert not any(refused(f'"{text}x{text}"') for text in blank if text)
    assert not any(refused(f'"{text}"') for text in ['\\"', "\\\\", "n", "\\\\n", "、", "\\b"])
    for other in ("1", "null", "[]", "{}", '{"content":"x"}', '{"content": "x"}', '["x"]', "-"):
        assert refused(other)
        assert refused(other, first=True)
    assert not refused('"\\"content\\":1"')


def test_all_spaces_are_known() -> None:
    spaces = {chr(code) for code in range(0x20, 0x110000) if chr(code).isspace()}
    assert spaces == set(quick.SPACES)


@pytest.mark.parametrize("seed", range(30))
def test_a_file_gives_the_same_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pick = random.Random(seed)
    source = tmp_path / "a.jsonl"
    source.write_bytes(pick.choice([b"\n", b"\r\n"]).join(line(pick) for _ in range(400)))

    def results() -> list[Any]:
        directory = tmp_path / str(pick.random())
        directory.mkdir()
        made = validate.step([plain(source)], validate.Cursor(), directory, "dv", 2**20)
        hashes = (directory / segments.HASHES).read_bytes()
        assert len(hashes) == 16 * made.rows
        return [made, hashes, list(segments.lines(directory))]

    quickly = results()
    monkeypatch.setattr(quick, "READERS", {})
    assert results() == quickly
