"""Text of all encodings, CSV, TSV, prose: what becomes of it, and on which line it is told of."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from app.datasets.containers import reader, unpacking
from app.datasets.containers.unpacking import File
from app.errors import DomainError, Invalid
from tests.datasets.files import jsonl, row

MIB = 2**20
GOOD = jsonl(row("问", "答"), row("b", "c"))


def opened(
    tmp_path: Path, name: str, data: bytes, most: int = MIB
) -> tuple[list[tuple[int, Any]], unpacking.Manifest]:
    """The rows of an uploaded file as (line, row or code of the problem), and the manifest."""
    path, into = tmp_path / "body", tmp_path / "into"
    path.write_bytes(data)
    into.mkdir(exist_ok=True)
    files = [File(name, path)]
    manifest = unpacking.unpack(files, into, most)
    assert unpacking.manifest(into) == manifest
    found: list[tuple[int, Any]] = []
    for source in unpacking.sources(manifest, files, into):
        for piece in reader.pieces(source.path, source.begin(), most):
            if piece.why:
                assert piece.why.message % piece.why.params
                found.append((piece.line, piece.why.code))
            else:
                assert not piece.problem
                found.append((piece.line, None if piece.data is None else json.loads(piece.data)))
    assert not [one for one in into.iterdir() if one.name.startswith("scratch")]
    return found, manifest


def refusal(tmp_path: Path, name: str, data: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        opened(tmp_path, name, data)
    assert str(caught.value)
    return caught.value


# -- JSON --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a", "a.txt", "a.csv"])
def test_plain_json_is_read_where_it_lies(tmp_path: Path, name: str) -> None:
    rows, manifest = opened(tmp_path, name, GOOD)
    assert [line for line, _ in rows] == [1, 2]
    assert manifest.files[0]["upload"] == 0
    assert manifest.unpacked == 0
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["manifest.json"]


@pytest.mark.parametrize(
    "codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "gb18030", "utf-8-sig"]
)
@pytest.mark.parametrize("array", [False, True])
def test_json_in_any_encoding(tmp_path: Path, codec: str, array: bool) -> None:
    rows = [row("问题一二三，", "答案"), row("b", "c")]
    text = json.dumps(rows, ensure_ascii=False, indent=1) if array else jsonl(*rows).decode()
    found, _ = opened(tmp_path, "a.json" if array else "a.jsonl", text.encode(codec))
    assert [one for _, one in found] == rows


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_json(tmp_path: Path, pack: Any) -> None:
    for data in (GOOD, b"[" + GOOD.strip().replace(b"\n", b",") + b"]"):
        rows, manifest = opened(tmp_path, "a.jsonl.gz", pack(data))
        assert [one for _, one in rows] == [row("问", "答"), row("b", "c")]
        assert [manifest.files[0][key] for key in ("file", "upload")] == ["0.rows", None]


def test_old_line_ends(tmp_path: Path) -> None:
    rows, _ = opened(tmp_path, "a.jsonl", GOOD.replace(b"\n", b"\r"))
    assert [line for line, _ in rows] == [1, 2]


def test_what_a_compressed_file_says_is_no_problem_of_ours(tmp_path: Path) -> None:
    """Only lines that we wrote can say why a row is missing."""
    lie = reader.told("row.format", "%(evil)s") + b"\n" + GOOD
    path, into = tmp_path / "body", tmp_path / "into"
    path.write_bytes(gzip.compress(lie))
    into.mkdir()
    files = [File("a.jsonl.gz", path)]
    (source,) = unpacking.sources(unpacking.unpack(files, into, MIB), files, into)
    pieces = list(reader.pieces(source.path, source.begin(), MIB))
    assert pieces[0].why is None
    assert len(pieces) == 3


def test_a_half_of_a_pair_in_utf_16_stays_a_bad_line(tmp_path: Path) -> None:
    data = '{"a": "问x"}\n{"a": "b"}\n'.encode("utf-16-le").replace(b"x\0", b"\x3d\xd8", 1)
    path, into = tmp_path / "body", tmp_path / "into"
    path.write_bytes(b"\xff\xfe" + data)
    into.mkdir()
    files = [File("a.jsonl", path)]
    (source,) = unpacking.sources(unpacking.unpack(files, into, MIB), files, into)
    first, second = (piece.data or b"" for piece in reader.pieces(source.path, source.begin(), MIB))
    with pytest.raises(UnicodeDecodeError):
        first.decode()
    assert second == b'{"a": "b"}'


# -- tables ------------------------------------------------------------------------------


def test_csv_goes_by_physical_lines(tmp_path: Path) -> None:
    data = 'instruction,output\r\n"一\r\n二",三\r\n\r\n"say ""hi""",=1+1\r\n'.encode()
    rows, manifest = opened(tmp_path, "a.csv", data)
    assert rows == [
        (2, {"instruction": "一\n二", "output": "三"}),
        (5, {"instruction": 'say "hi"', "output": "=1+1"}),
    ]
    assert manifest.files[0]["container"] == "csv"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encoding_and_delimiter_are_found_out(tmp_path: Path, codec: str, delimiter: str) -> None:
    lines = [["指令", "输出"], ["你好，世界", "a, b; c"], ["二", "三"]]
    if delimiter in ",;":
        lines[1][1] = f'"{lines[1][1]}"'
    text = "\n".join(delimiter.join(line) for line in lines)
    rows, _ = opened(tmp_path, "a.csv", text.encode(codec))
    assert rows == [
        (2, {"指令": "你好，世界", "输出": "a, b; c"}),
        (3, {"指令": "二", "输出": "三"}),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('a,b\n"x \\" y",2\n"u \\" v",3\n', 'x " y'),
        ("'a','b'\n'x, y','2'\n", "x, y"),
        ('a, b\n"x", "y, z"\n"u", "v, w"\n', "x"),
        ("sep=;\na;b\nx,y;2\n", "x,y"),
        ("a\tb\nx, y\t2\n", "x, y"),
    ],
)
def test_quoting_is_found_out(tmp_path: Path, text: str, value: str) -> None:
    rows, _ = opened(tmp_path, "a.csv", text.encode())
    assert rows[0][1]["a"] == value
    assert all(len(one) == 2 for _, one in rows)


def test_bad_rows_of_a_table_are_told_by_their_lines(tmp_path: Path) -> None:
    text = 'a,b\n1,2\n3\n4,5,6\n"x"y,7\n8,"open\n9,10\n11,12\n'
    rows, _ = opened(tmp_path, "a.csv", text.encode())
    assert rows == [
        (2, {"a": "1", "b": "2"}),
        (3, "table.cells"),
        (4, "table.cells"),
        (5, "table.quotes"),
        (6, "table.open"),
        (7, {"a": "9", "b": "10"}),
        (8, {"a": "11", "b": "12"}),
    ]


def test_an_undecodable_cell_is_told_by_line_and_byte(tmp_path: Path) -> None:
    text = "a,b\n中文的内容,2\n".encode() + b"xy\xff,3\n" + "好的,4\n文字,5\n".encode()
    path, into = tmp_path / "body", tmp_path / "into"
    path.write_bytes(text)
    into.mkdir()
    files = [File("a.csv", path)]
    (source,) = unpacking.sources(unpacking.unpack(files, into, MIB), files, into)
    told = [one for one in reader.pieces(source.path, source.begin(), MIB) if one.why]
    assert [(one.line, one.why and one.why.params) for one in told] == [
        (3, {"at": 3, "byte": 3, "codec": "UTF-8"})
    ]


def test_columns_that_are_lists_by_name_hold_json(tmp_path: Path) -> None:
    turns = json.dumps(row()["messages"]).replace('"', '""')
    rows, _ = opened(tmp_path, "a.csv", f'messages,label,x\n"{turns}",TRUE,\n'.encode())
    assert rows == [(2, {"messages": row()["messages"], "label": True, "x": ""})]


def test_a_row_that_is_too_large_is_not_held(tmp_path: Path) -> None:
    text = (
        b"a,b\n1,"
        + b"x" * (3 * MIB)
        + b'\n2,3\n4,"'
        + b"yyyyyyyyyyyyyyy\n" * (MIB // 15)
        + b'"\n5,6\n'
    )
    rows, _ = opened(tmp_path, "a.csv", text)
    assert rows[:3] == [(2, "row.too_large"), (3, {"a": "2", "b": "3"}), (4, "table.open")]
    assert rows[-1][1] == {"a": "5", "b": "6"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\n\n", "file.empty"),
        (",,\n1,2,3\n", None),
        ("a,a\n1,2\n", "file.column_twice"),
        ("x" * 300 + ",b\n1,2\n", "file.header"),
        (",".join(f"c{at}" for at in range(1200)) + "\n", "file.columns"),
        ('"never\nclosed\n', "file.header"),
    ],
)
def test_tables_without_a_header(tmp_path: Path, text: str, code: str | None) -> None:
    if code:
        assert refusal(tmp_path, "a.csv", text.encode()).code == code
    else:  # an empty row is none: the next is the header
        assert opened(tmp_path, "a.csv", text.encode())[0] == []


# -- prose -------------------------------------------------------------------------------


def test_a_text_is_one_document(tmp_path: Path) -> None:
    text = "\n\n第一段。\r\n\r\n第二段。\n"
    for codec in ("utf-8", "gb18030", "utf-16"):
        rows, manifest = opened(tmp_path, "a.txt", text.encode(codec))
        assert rows == [(3, {"text": "第一段。\n\n第二段。"})]
        assert manifest.files[0]["container"] == "text"


def test_a_book_is_cut_at_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.datasets.containers.documents.DOCUMENT", 30)
    text = "\n\n".join(f"{at} " + "word " * 5 for at in range(4)) + "\n" + "x" * 2000
    rows, _ = opened(tmp_path, "a.txt", text.encode(), most=1000)
    assert [line for line, _ in rows] == [1, 5, 8]
    assert rows[0][1]["text"].startswith("0 word")
    assert "1 word" in rows[0][1]["text"]
    assert rows[2] == (8, "row.too_large")
    rows, _ = opened(tmp_path, "a.md", b"# One\n" + b"text " * 9 + b"\n\n# Two\nmore\n")
    assert [line for line, _ in rows] == [1, 4]


# -- what is no data ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.jsonl", b"", "file.empty"),
        ("a.csv", b"\xef\xbb\xbf \n", "file.empty"),
        ("a.jsonl", b"%PDF-1.7\n%\xe2\xe3", "file.type"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "file.type"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "file.type"),
        ("a.bz2", b"BZh91AY", "file.type"),
        ("a.pkl", b"\x80\x04\x95", "file.type"),
        ("a.csv", b"a\0b,c\n1,2\n", "file.encoding"),
        ("a.gz", gzip.compress(b"x" * 257 + b"ustar\x0000", mtime=0), "file.nested"),
        ("a.gz", gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0), "file.nested"),
        ("a.gz", gzip.compress(GOOD, mtime=0)[:-9], "file.broken"),
        ("a.gz", gzip.compress(GOOD, mtime=0) + b"rest", "file.broken"),
        ("a.gz", b"\x1f\x8b\x08\x00", "file.broken"),
        ("a.zst", zstandard.compress(GOOD * 9)[:-3], "file.broken"),
        ("a.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "file.broken"),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "file.broken"),
    ],
)
def test_what_is_no_data_is_refused_by_name(
    tmp_path: Path, name: str, data: bytes, code: str
) -> None:
    error = refusal(tmp_path, name, data)
    assert error.code == code
    assert code == "file.empty" or "a." in str(error) or "“a”" in str(error)


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    for pack in (gzip.compress, zstandard.compress):
        assert refusal(tmp_path, "a.jsonl.gz", pack(b"x" * (64 * MIB))).code == "file.bomb"


def test_long_headers_cannot_blow_up_a_table(tmp_path: Path) -> None:
    names = [f"c{at}" + "x" * 190 for at in range(900)]
    text = ",".join(names) + "\n" + (",".join("1" * 900) + "\n") * 400
    assert refusal(tmp_path, "a.csv.gz", gzip.compress(text.encode())).code == "file.bomb"


@pytest.mark.parametrize(
    ("patch", "value", "code"),
    [
        ("app.datasets.containers.limits.SECONDS", -1, "file.slow"),
        ("app.datasets.containers.limits.LEFT", 2**60, "disk_full"),
        ("app.config.settings.max_upload_mb", 1, "file.unpacked"),
    ],
)
def test_time_and_room_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str, value: int, code: str
) -> None:
    monkeypatch.setattr("app.datasets.containers.limits.BEAT", 0)
    monkeypatch.setattr(patch, value)
    data = gzip.compress(b"".join(jsonl(row(str(at))) for at in range(80_000)))
    path = tmp_path / "body"
    path.write_bytes(data)
    with pytest.raises(DomainError) as caught:
        unpacking.unpack([File("a.jsonl.gz", path)], tmp_path, MIB)
    assert caught.value.code == code


def test_a_sign_of_life_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.datasets.containers.limits.BEAT", 0)
    path = tmp_path / "body"
    path.write_bytes(gzip.compress(GOOD))
    beats: list[int] = []
    unpacking.unpack([File("a.jsonl.gz", path)], tmp_path, MIB, lambda: beats.append(1))
    assert beats


def test_letters_that_come_late_decide_all_the_same(tmp_path: Path) -> None:
    text = "a,b\n" + f"{'plain' * 200},text\n" * 1200 + "后来,才有\n"
    rows, _ = opened(tmp_path, "a.csv", text.encode("gb18030"))
    assert rows[-1] == (1202, {"a": "后来", "b": "才有"})


def test_zstd_that_is_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    data = zstandard.compress(GOOD)
    for end in range(4, len(data)):
        assert refusal(tmp_path, "a.jsonl.zst", data[:end]).code == "file.broken"
    assert len(opened(tmp_path, "a.jsonl.zst", data + data)[0]) == 4
