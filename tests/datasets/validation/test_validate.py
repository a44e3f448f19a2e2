"""Whole files: where they are cut, what is reported, and that nothing gets lost."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from app.datasets.containers import reader
from app.datasets.containers.unpacking import Source
from app.datasets.rows import segments
from app.datasets.validation import validate
from app.datasets.validation.validate import Issue
from app.errors import Invalid

MIB = 2**20
GOOD = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}
LINE = json.dumps(GOOD, ensure_ascii=False).encode()
ALPACA = {"instruction": "a", "input": "", "output": "b"}


def check(
    tmp_path: Path, data: bytes, most: int = 16 * MIB
) -> tuple[list[dict[str, Any]], list[Issue], validate.Cursor]:
    """Validate `data` to the end, stretch by stretch: rows, issues, the last cursor."""
    source = tmp_path / "body"
    source.write_bytes(data)
    cursor = validate.Cursor()
    rows: list[dict[str, Any]] = []
    issues: list[Issue] = []
    for number in range(10_000):
        directory = tmp_path / f"segment-{number}"
        directory.mkdir(exist_ok=True)
        cursor = validate.Cursor.from_json(json.loads(json.dumps(cursor.to_json())))
        step = validate.step([plain(source)], cursor, directory, "dv", most)
        segments.index.cache_clear()
        rows += segments.read(directory)
        issues += step.issues
        cursor = step.cursor
        if step.done:
            return rows, issues, cursor
    raise AssertionError("it does not end")


def plain(path: Path, name: str = "a.jsonl") -> Source:
    return Source(name, "json", path, path.stat().st_size, spooled=False, mapping=None)


def found(issues: list[Issue]) -> list[tuple[int, str, str]]:
    return [(issue.line, issue.path, issue.code) for issue in issues]


def refusal(tmp_path: Path, data: bytes) -> str:
    source = tmp_path / "body"
    source.write_bytes(data)
    with pytest.raises(Invalid) as caught:
        reader.begin(source)
    assert caught.value.status == 422
    return caught.value.code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "file.empty"),
        (b"\n \r\n\t", "file.empty"),
        (b"%PDF-1.7\n%\xe2\xe3", "file.type"),
        (b"PK\x03\x04\x14\x00", "file.type"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "file.type"),
        (b"\x89PNG\r\n\x1a\n", "file.type"),
        (b"\xff\xd8\xff\xe0", "file.type"),
        (b"\x1f\x8b\x08\x00", "file.type"),
        (b"PAR1\x15\x04", "file.type"),
        (b"\x80\x04\x95", "file.type"),
        (LINE.decode().encode("utf-16"), "file.encoding"),
        (LINE.decode().encode("utf-16-le"), "file.encoding"),
        (b"\0" * 100, "file.encoding"),
    ],
)
def test_what_is_no_dataset_is_refused_at_once(tmp_path: Path, data: bytes, code: str) -> None:
    assert refusal(tmp_path, data) == code


def test_jsonl(tmp_path: Path) -> None:
    rows, issues, cursor = check(tmp_path, LINE + b"\n" + LINE)
    assert [row["id"] for row in rows] == ["dv.1", "dv.2"]
    assert rows[0]["messages"] == GOOD["messages"]
    assert issues == []
    assert cursor.format == "messages"


def test_bom_crlf_and_blank_lines_are_fine(tmp_path: Path) -> None:
    rows, issues, _ = check(tmp_path, b"\xef\xbb\xbf" + LINE + b"\r\n\r\n  \n" + LINE + b"\r\n")
    assert [row["id"] for row in rows] == ["dv.1", "dv.4"]
    assert issues == []


def test_each_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    lines = [
        LINE,
        b'{"messages": [',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "a\x00"}]}',
        b'{"messages": [{"role": "user", "content": "a\\u0000"}, {"role": "assistant", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]}',
        b"[" * 3000 + b"]" * 3000,
        b'{"messages": 1e999}',
        b'{"messages": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}]}',
        b'{"a": 1} {"b": 2}',
        b"null",
        LINE,
    ]
    rows, issues, _ = check(tmp_path, b"\n".join(lines))
    assert [row["id"] for row in rows] == ["dv.1", "dv.13"]
    assert found(issues) == [
        (2, "", "json.invalid"),
        (3, "", "text.encoding"),
        (4, "", "json.invalid"),
        (5, "messages[0].content", "text.nul"),
        (6, "", "json.invalid"),
        (7, "", "json.deep"),
        (8, "", "json.invalid"),
        (9, "", "json.invalid"),
        (10, "messages", "assistant.missing"),
        (11, "", "json.invalid"),
        (12, "", "row.type"),
    ]
    for issue in issues:
        assert issue.message % issue.params


def test_the_file_decides_its_format_once(tmp_path: Path) -> None:
    alpaca = json.dumps(ALPACA).encode()
    rows, issues, cursor = check(tmp_path, b"{}\n" + alpaca + b"\n" + LINE)
    assert cursor.format == "alpaca"
    assert [row["id"] for row in rows] == ["dv.2"]
    assert found(issues)[0] == (1, "", "row.format")
    assert found(issues)[1] == (3, "", "row.other_format")


def test_unused_fields_are_a_warning_each(tmp_path: Path) -> None:
    extra = json.dumps(GOOD | {"source": "web"}).encode()
    _, issues, _ = check(tmp_path, LINE + b"\n" + extra + b"\n" + extra)
    assert [(one.level, one.line, one.path, one.params["count"]) for one in issues] == [
        ("warning", 2, "source", 2)
    ]


def test_a_row_that_is_too_large(tmp_path: Path) -> None:
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 3 * MIB}]}).encode()
    for data in (b"\n".join([LINE, large, LINE]), b"[" + b",".join([LINE, large, LINE]) + b"]"):
        rows, issues, _ = check(tmp_path, data, most=MIB)
        assert [row["id"] for row in rows] == ["dv.1", "dv.3"]
        assert found(issues) == [(2, "", "row.too_large")]


def test_a_row_of_just_the_limit(tmp_path: Path) -> None:
    row = LINE.replace("问".encode(), b"x" * (MIB - len(LINE) + 3))
    assert len(row) == MIB
    for tail in (b"", b"\n", b"\r\n"):
        assert found(check(tmp_path, row + tail, most=MIB)[1]) == []
    assert found(check(tmp_path, b"[" + row + b"]", most=MIB)[1]) == []
    longer = row.replace(b"xx", b"xxx", 1)
    assert found(check(tmp_path, longer + b"\n" + LINE, most=MIB)[1]) == [(1, "", "row.too_large")]
    assert found(check(tmp_path, b"[" + longer + b"]", most=MIB)[1]) == [(1, "", "row.too_large")]


# -- arrays ------------------------------------------------------------------------------


def test_an_array_however_it_is_laid_out(tmp_path: Path) -> None:
    rows = [ALPACA | {"input": 'a "quoted" [bracket], {brace} \\'}, ALPACA, ALPACA]
    for data in (
        json.dumps(rows),
        json.dumps(rows, indent=4),
        "\ufeff \n" + json.dumps(rows, indent=1).replace("\n", "\r\n") + "\n\n",
        json.dumps(rows, separators=(",", ":")),
    ):
        made, issues, cursor = check(tmp_path, data.encode())
        assert [row["id"] for row in made] == ["dv.1", "dv.2", "dv.3"]
        assert made[0]["messages"][0]["content"] == 'a\na "quoted" [bracket], {brace} \\'
        assert issues == []
        assert cursor.format == "alpaca"


def test_jsonl_whose_first_row_is_an_array(tmp_path: Path) -> None:
    rows, issues, _ = check(tmp_path, b"[]\n" + LINE + b"\n" + LINE)
    assert len(rows) == 2
    assert found(issues) == [(1, "", "row.type")]


@pytest.mark.parametrize(
    ("data", "rows", "issues"),
    [
        ("[]", 0, []),
        ("[ \n ]", 0, []),
        ("[G,]", 1, [(2, "json.empty")]),
        ("[,G]", 1, [(1, "json.empty")]),
        ("[G,,G]", 2, [(2, "json.empty")]),
        ("[G G]", 0, [(1, "json.invalid")]),
        ("[G, nonsense, G]", 2, [(2, "json.invalid")]),
        ('[G, "text", 5, null, [1, 2], G]', 2, [(n, "row.type") for n in (2, 3, 4, 5)]),
        ("[G", 1, [(2, "json.unclosed")]),
        ("[G,", 1, [(2, "json.unclosed")]),
        ("[G, {", 1, [(2, "json.invalid"), (3, "json.unclosed")]),
        ('[G, {"instruction": "cut', 1, [(2, "json.invalid"), (3, "json.unclosed")]),
        ('[G, {"a": "\\', 1, [(2, "json.invalid"), (3, "json.unclosed")]),
        ("[G] G", 1, [(2, "json.trailing")]),
        ("[G]]", 1, [(2, "json.trailing")]),
        ("[G}, G]", 1, [(1, "json.invalid")]),
        ('[{"a": [1}, G]', 0, [(1, "json.invalid"), (2, "json.unclosed")]),
        ('[{"instruction": "a", "output": [1]]}, G]', 1, [(1, "json.invalid")]),
        ("[", 0, [(1, "json.unclosed")]),
    ],
)
def test_broken_arrays(tmp_path: Path, data: str, rows: int, issues: list[tuple[int, str]]) -> None:
    made, told, _ = check(tmp_path, data.replace("G", json.dumps(ALPACA)).encode())
    assert len(made) == rows
    assert [(issue.line, issue.code) for issue in told] == issues


def test_a_broken_element_tells_its_line_in_the_file(tmp_path: Path) -> None:
    text = json.dumps([ALPACA, ALPACA, ALPACA], indent=2).splitlines()
    text[7] = text[7].replace('"', "", 1)  # in the second element, which begins on line 7
    _, issues, _ = check(tmp_path, "\n".join(text).encode())
    assert [(issue.line, issue.params["begins"]) for issue in issues] == [(2, 7)]


def test_arrays_do_not_depend_on_where_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ALPACA | {"input": '\\"[{,' * size + '\\\\"'} for size in range(12)]
    data = json.dumps(rows, indent=1).encode()
    expected = check(tmp_path, data)
    for chunk in range(1, 40):
        monkeypatch.setattr("app.datasets.containers.reader.CHUNK", chunk)
        made = check(tmp_path, data)
        assert made[0] == expected[0]
        assert made[1] == []


# -- stretches ---------------------------------------------------------------------------


def malformed(pick: random.Random) -> bytes:
    """A line of JSONL, or something like one."""
    row: Any = pick.choice([GOOD, GOOD, GOOD | {"x": 1}, ALPACA, {}, [], "a", None, 5, 1e30])
    data = json.dumps(row, ensure_ascii=pick.random() < 0.5).encode()
    for _ in range(pick.choice([0, 0, 0, 1, 1, 3])):
        at = pick.randrange(len(data) + 1)
        junk = pick.choice(
            [b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"\0", b"\xff", b"\r", b"  ",
             b"\xed\xa0\x80", b"\\ud83d", b"\\u0000", b"NaN", b"9" * 400, b"[" * 1500]
        )  # fmt: skip
        data = data[:at] + junk + data[at + pick.randrange(3) :]
    return data


@pytest.mark.parametrize("seed", range(60))
def test_no_row_is_lost_and_stretches_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pick = random.Random(seed)
    lines = [malformed(pick) for _ in range(60)]
    lines = [line for line in lines if b"\n" not in line]
    array = seed % 3 == 0
    data = b"[" + b",\n".join(lines) + b"]" if array else b"\n".join(lines)
    expected = check(tmp_path, data, most=4096)
    rows, issues, cursor = expected
    for issue in issues:
        json.dumps(issue.params, allow_nan=False).encode()  # fit for the database and a page
        assert "\0" not in json.dumps(vars(issue), ensure_ascii=False)
        assert issue.message % issue.params
    if (
        not array and reader.begin(tmp_path / "body").shape != "lines"
    ):  # the first line looks like an array's
        assert issues[-1].code in ("json.trailing", "json.unclosed")
    elif not array:  # each line with something in it is kept or reported, once
        told = [int(row["id"].split(".")[1]) for row in rows]
        told += [issue.line for issue in issues if issue.level == "error"]
        filled = [at for at, line in enumerate(lines, start=1) if line.strip(b" \t\r\n")]
        assert sorted(told) == filled
    monkeypatch.setattr("app.datasets.validation.validate.STEP_BYTES", 300)
    monkeypatch.setattr("app.datasets.validation.validate.BATCH", 128)
    assert check(tmp_path, data, most=4096) == expected
    assert cursor.format in ("", "messages", "alpaca")


@pytest.mark.parametrize("seed", range(40))
def test_bytes_of_any_kind_never_break_it(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    alphabet = pick.choice([bytes(range(256)), b'{}[]",:\\ \nae0', b"\x00\xff\n{}"])
    data = bytes(pick.choice(alphabet) for _ in range(2000))
    try:
        rows, issues, _ = check(tmp_path, data)
    except Invalid:
        return
    assert len(issues) + len(rows) > 0


def peak_of(tmp_path: Path, rows: int, array: bool) -> int:
    filler = json.dumps(GOOD | {"tools": [{"x": "y" * 900}]}).encode()
    source = tmp_path / "body"
    data = (b",\n" if array else b"\n").join([filler] * rows)
    source.write_bytes(b"[" + data + b"]" if array else data)
    del data
    tracemalloc.start()
    step = validate.step([plain(source)], validate.Cursor(), tmp_path, "dv", 16 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert step.done
    assert step.rows == rows
    return peak


@pytest.mark.parametrize("array", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, array: bool) -> None:
    assert peak_of(tmp_path, 5000, array) < 1.1 * peak_of(tmp_path, 2000, array)


def test_a_huge_row_is_not_held(tmp_path: Path) -> None:
    source = tmp_path / "body"
    for opening in (b"", b"["):
        with source.open("wb") as file:
            file.write(opening + b'{"a": "')
            for _ in range(48):
                file.write(b"x" * MIB)
            file.write(b'"}' + (b"," if opening else b"\n") + LINE + (b"]" if opening else b""))
        tracemalloc.start()
        step = validate.step([plain(source)], validate.Cursor(), tmp_path, "dv", MIB)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found(step.issues) == [(1, "", "row.too_large")]
        assert step.rows == 1
        assert peak < 16 * MIB


def test_a_page_deep_in_a_large_segment_is_quick(tmp_path: Path) -> None:
    import time

    rows = ({"id": f"dv.{at}", **GOOD} for at in range(200_000))
    segments.write(rows, tmp_path)
    segments.index(tmp_path)
    started = time.perf_counter()
    page = list(segments.read(tmp_path, 180_017, 50))
    assert time.perf_counter() - started < 0.05
    assert [page[0]["id"], len(page)] == ["dv.180017", 50]
