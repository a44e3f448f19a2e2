"""Archives, sheets and Parquet: what is read of them, and what is refused."""

import json
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from app.datasets.containers import archives, reader, unpacking
from app.datasets.containers.unpacking import File
from app.errors import Invalid
from tests.datasets.containers.boxes import xlsx, zipped
from tests.datasets.files import jsonl

MIB = 2**20
ALPACA = jsonl({"instruction": "a", "output": "b"})
CSV = "instruction,output\n一,二\n".encode()


def opened(
    tmp_path: Path, *uploads: tuple[str, bytes]
) -> tuple[dict[str, list[tuple[int, Any]]], unpacking.Manifest]:
    """By the name of each source its rows as (line, row or code of the problem); the manifest."""
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    files = []
    for at, (name, data) in enumerate(uploads):
        files.append(File(name, tmp_path / f"body.{at}"))
        files[-1].path.write_bytes(data)
    manifest = unpacking.unpack(files, into, MIB)
    found: dict[str, list[tuple[int, Any]]] = {}
    for source in unpacking.sources(manifest, files, into):
        found[source.name] = [
            (piece.line, piece.why.code if piece.why else json.loads(piece.data or b""))
            for piece in reader.pieces(source.path, source.begin(), MIB)
        ]
    assert {path.suffix for path in into.iterdir()} <= {".rows", ".json"}
    return found, manifest


def refusal(tmp_path: Path, *uploads: tuple[str, bytes]) -> Invalid:
    with pytest.raises(Invalid) as caught:
        opened(tmp_path, *uploads)
    assert str(caught.value)
    return caught.value


def codes(manifest: unpacking.Manifest) -> list[tuple[str, str]]:
    for note in manifest.notes:
        assert note["message"] % note["params"]
    return [(note["file"], note["code"]) for note in manifest.notes]


# -- zip ---------------------------------------------------------------------------------


def test_every_data_file_in_a_zip(tmp_path: Path) -> None:
    data = zipped(
        {
            "b/train.csv": CSV,
            "a.jsonl": ALPACA,
            "README.md": b"# Data",
            "__MACOSX/a.jsonl": b"junk",
            "empty.jsonl": b"",
            "book.xlsx": xlsx({"S": {1: ["text"], 2: ["x"]}}),
        }
    )
    found, manifest = opened(tmp_path, ("data.zip", data))
    assert found == {
        "data.zip/a.jsonl": [(1, {"instruction": "a", "output": "b"})],
        "data.zip/b/train.csv": [(2, {"instruction": "一", "output": "二"})],
        "data.zip/book.xlsx": [(2, {"text": "x"})],
    }
    assert codes(manifest) == [
        ("data.zip/README.md", "file.unread"),
        ("data.zip/empty.jsonl", "file.empty"),
    ]


def test_prose_in_a_zip(tmp_path: Path) -> None:
    found, _ = opened(
        tmp_path, ("b.zip", zipped({"1.txt": b"one", "2.md": b"two", "LICENSE": b""}))
    )
    assert list(found) == ["b.zip/1.txt", "b.zip/2.md"]


def test_names_in_the_encoding_of_windows(tmp_path: Path) -> None:
    data = zipped({"1234.jsonl": ALPACA}).replace(b"1234.", "数据.".encode("gb18030"))
    found, _ = opened(tmp_path, ("d.zip", data))
    assert list(found) == ["d.zip/数据.jsonl"]


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    found, manifest = opened(tmp_path, ("b.jsonl", ALPACA), ("a.csv", CSV))
    assert list(found) == ["a.csv", "b.jsonl"]
    assert [one["upload"] for one in manifest.files] == [None, 0]


def test_the_folder_of_sxwl(tmp_path: Path) -> None:
    data = zipped({"chat/dataset.json": b"[" + ALPACA + b"]", "chat/other.jsonl": b"{}"})
    found, manifest = opened(tmp_path, ("chat.zip", data))
    assert list(found) == ["chat.zip/chat/dataset.json"]
    assert codes(manifest) == [("chat.zip/chat/other.jsonl", "file.unread")]


def info(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def test_a_folder_of_llama_factory(tmp_path: Path) -> None:
    said = info(
        mine={"file_name": "part", "columns": {"prompt": "q", "response": "a"}},
        away={"hf_hub_url": "x/y"},
        gone={"file_name": "gone.json"},
    )
    rows = jsonl({"q": "1", "a": "2"})
    uploads = {"d/dataset_info.json": said, "d/part/1.jsonl": rows, "d/part/2.jsonl": rows}
    found, manifest = opened(tmp_path, ("d.zip", zipped(uploads)))
    assert list(found) == ["d.zip/d/part/1.jsonl", "d.zip/d/part/2.jsonl"]
    assert manifest.files[0]["mapping"] == {
        "format": "alpaca",
        "columns": {"instruction": "q", "output": "a"},
    }
    assert [code for _, code in codes(manifest)] == ["info.remote", "info.missing"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (info(a={"hf_hub_url": "x/y"}), "info.remote"),
        (info(a={"file_name": "../../etc/passwd"}), "info.missing"),
        (info(a={"file_name": "/etc/passwd"}), "info.missing"),
        (info(a={"file_name": "1.json"}, b={"file_name": "2.json", "ranking": True}), "info.kinds"),
        (info(a={"file_name": "1.json", "formatting": "x"}), "info.formatting"),
        (info(a=5), "info.missing"),
        (b"[]", "file.broken"),
        (b"{", "file.broken"),
        (b"{}", "info.empty"),
        (info(**{str(at): {} for at in range(2000)}), "info.many"),
    ],
)
def test_a_dataset_info_that_helps_nobody(tmp_path: Path, said: bytes, code: str) -> None:
    uploads = {"dataset_info.json": said, "1.json": ALPACA, "2.json": ALPACA}
    assert refusal(tmp_path, ("d.zip", zipped(uploads))).code == code


def linked(mode: int) -> bytes:
    entry = zipfile.ZipInfo("a.jsonl")
    entry.create_system, entry.external_attr = 3, mode << 16
    import io

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return data.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped({"a.jsonl": ALPACA}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def twice() -> bytes:
    return zipped({"a.jsonl": ALPACA, "b.jsonl": ALPACA}).replace(b"b.jsonl", b"a.jsonl")


def lying() -> bytes:
    """A zip that declares a tenth of what it holds."""
    data = bytearray(zipped({"a.jsonl": ALPACA * 1000}))
    for start, at in ((0, 22), (data.index(b"PK\x01\x02"), 24)):
        struct.pack_into("<I", data, start + at, len(ALPACA))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (zipped({"../../etc/cron.d/a.jsonl": ALPACA}), "file.zip.path"),
        (zipped({"/etc/a.jsonl": ALPACA}), "file.zip.path"),
        (zipped({"C:/a.jsonl": ALPACA}), "file.zip.path"),
        (zipped({"..\\a.jsonl": ALPACA}), "file.zip.path"),
        (linked(stat.S_IFLNK | 0o777), "file.zip.link"),
        (linked(stat.S_IFIFO | 0o666), "file.zip.link"),
        (linked(stat.S_IFBLK | 0o666), "file.zip.link"),
        (encrypted(), "file.zip.encrypted"),
        (twice(), "file.zip.twice"),
        (lying(), "file.broken"),
        (zipped({"a.jsonl": ALPACA}, zipfile.ZIP_LZMA), "file.zip.method"),
        (zipped({"a.jsonl": zipped({"b.jsonl": ALPACA})}), "file.nested"),
        (zipped({}), "file.zip.empty"),
        (zipped({"a.exe": b"MZ"}), "file.zip.empty"),
        (zipped({"a.jsonl": ALPACA})[:-5], "file.broken"),
        (zipped({"a.jsonl": ALPACA * 99})[:40] + b"\0" * 99, "file.broken"),
        (zipped({"a.jsonl": b"x" * 64 * MIB}), "file.bomb"),
        (zipped({"[Content_Types].xml": b"", "word/document.xml": b""}), "file.type"),
    ],
)
def test_zips_that_are_refused(tmp_path: Path, data: bytes, code: str) -> None:
    assert refusal(tmp_path, ("a.zip", data)).code == code


def test_a_zip_of_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 5)
    data = zipped({f"{at}.jsonl": ALPACA for at in range(6)})
    assert refusal(tmp_path, ("a.zip", data)).code == "file.zip.many"
    monkeypatch.setattr(archives, "DIRECTORY", 100)
    assert refusal(tmp_path, ("a.zip", data)).code == "file.zip.many"


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    data = zipped({"a.jsonl": ALPACA}, zipfile.ZIP_STORED).replace(b'"b"', b'"c"')
    assert refusal(tmp_path, ("a.zip", data)).code == "file.broken"


def test_a_link_among_the_uploads_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "body"
    link.symlink_to("/etc/passwd")
    with pytest.raises(Invalid):
        unpacking.unpack([File("a.txt", link)], tmp_path, MIB)


# -- xlsx --------------------------------------------------------------------------------

STYLES = b"""<styleSheet><numFmts><numFmt numFmtId="170" formatCode="yyyy&quot;-&quot;mm"/>
<numFmt numFmtId="171" formatCode="0.00&quot;days&quot;"/></numFmts>
<cellStyleXfs><xf numFmtId="14"/></cellStyleXfs>
<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="170"/><xf numFmtId="171"/></cellXfs>
</styleSheet>"""


def test_cells_are_text(tmp_path: Path) -> None:
    cells = [
        "<共享> & 文",
        5,
        0.1,
        1e20,
        {"t": "b", "v": 1},
        {"t": "e", "v": "#N/A"},
        {"f": "1+1", "v": 2},
        {"f": "HYPERLINK(1)"},
        {"t": "str", "f": "A1", "v": "kept_x000D_"},
        {"t": "inlineStr", "is": "<r><t>rich</t></r><r><t> text</t></r><rPh><t>no</t></rPh>"},
        {"s": 1, "v": 45296},
        {"s": 2, "v": 45296.5},
        {"s": 3, "v": 45296.5},
    ]
    names = [f"c{at}" for at in range(len(cells))]
    data = xlsx({"S": {1: names, 3: cells}}, {"xl/styles.xml": STYLES})
    found, _ = opened(tmp_path, ("a.xlsx", data))
    expected = [
        "<共享> & 文", "5", "0.1", "1e+20", "true", "#N/A", "2", "=HYPERLINK(1)", "kept\r",
        "rich text", "2024-01-05", "2024-01-05 12:00:00", "45296.5",
    ]  # fmt: skip
    assert found == {"a.xlsx": [(3, dict(zip(names, expected, strict=True)))]}


def test_rows_of_a_sheet_go_by_their_numbers(tmp_path: Path) -> None:
    rows = {
        2: ["a", None, "b"],
        5: ["1"],
        6: [None, None, " "],
        9: ["1", None, "2", "3"],
        90: ["", None, "z"],
    }
    found, _ = opened(tmp_path, ("a.xlsx", xlsx({"S": rows})))
    assert found["a.xlsx"] == [
        (5, {"a": "1", "b": ""}),
        (9, "table.cells"),
        (90, {"a": "", "b": "z"}),
    ]


def test_other_sheets_are_told_of(tmp_path: Path) -> None:
    table = {1: ["text"], 2: ["x"]}
    data = xlsx({"cover": {1: ["title"]}, "数据": table, "more": table, "blank": {}})
    found, manifest = opened(tmp_path, ("a.xlsx", data))
    assert found == {"a.xlsx": [(2, {"text": "x"})]}
    assert [note["params"]["sheet"] for note in manifest.notes] == ["more"]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"xl/workbook.xml": b"<!DOCTYPE x [<!ENTITY a 'b'>]><workbook/>"}, "file.broken"),
        ({"xl/worksheets/sheet1.xml": b"<worksheet><row>"}, "file.broken"),
        (
            {"xl/worksheets/sheet1.xml": b"<w><row r='9999999'><c><v>1</v></c></row></w>"},
            "file.broken",
        ),
        (
            {"xl/worksheets/sheet1.xml": b"<w><row><c r='ZZZ1'><v>1</v></c></row></w>"},
            "file.broken",
        ),
        ({"xl/worksheets/sheet1.xml": b"<w><row><c t='s'><v>77</v></c></row></w>"}, "file.broken"),
        ({"xl/worksheets/sheet1.xml": b"<w/>"}, "file.no_rows"),
        ({"xl/sharedStrings.xml": b"<a>" * 9}, "file.broken"),
        ({"xl/worksheets/sheet1.xml": b"<w>" + b" " * 64 * MIB + b"</w>"}, "file.bomb"),
        ({"xl/_rels/workbook.xml.rels": b"<R/>"}, "file.no_rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_sheets_that_are_refused(tmp_path: Path, extra: dict[str, bytes], code: str) -> None:
    data = xlsx({"S": {1: ["text"], 2: ["x"]}}, extra)
    assert refusal(tmp_path, ("a.xlsx", data)).code == code


def test_a_large_cell_is_not_held(tmp_path: Path) -> None:
    import random

    text = "".join(random.Random(1).choices("abcdefgh", k=3 * MIB))
    rows = {
        1: ["a"],
        2: ["x"],
        3: [text],
        4: [{"t": "inlineStr", "is": f"<t>{text}</t>"}],
        5: ["y"],
    }
    found, _ = opened(tmp_path, ("a.xlsx", xlsx({"S": rows})))
    assert found["a.xlsx"] == [
        (2, {"a": "x"}),
        (3, "row.too_large"),
        (4, "row.too_large"),
        (5, {"a": "y"}),
    ]


# -- parquet -----------------------------------------------------------------------------


def parquet(tmp_path: Path, query: str) -> bytes:
    path = tmp_path / "made.parquet"
    duckdb.sql(query).write_parquet(str(path))
    return path.read_bytes()


def test_parquet(tmp_path: Path) -> None:
    query = """select i as n, [{'role': 'user', 'content': '问' || i}] as messages,
        case when i = 1 then 'nan'::double else i / 2 end as score, null as nothing,
        map {'k': 1} as m, date '2024-01-05' as d from range(3) t(i)"""
    found, manifest = opened(tmp_path, ("a.parquet", parquet(tmp_path, query)))
    assert [line for line, _ in found["a.parquet"]] == [1, 2, 3]
    assert found["a.parquet"][1][1] == {
        "n": 1, "messages": [{"role": "user", "content": "问1"}], "score": None, "nothing": None,
        "m": {"k": 1}, "d": "2024-01-05",
    }  # fmt: skip
    assert manifest.files[0]["container"] == "parquet"
    packed = zipped({"x.parquet": parquet(tmp_path, query)})
    assert len(opened(tmp_path, ("p.zip", packed))[0]["p.zip/x.parquet"]) == 3


def test_a_parquet_bomb(tmp_path: Path) -> None:
    data = parquet(tmp_path, "select repeat('x', 1000) as text from range(200000)")
    assert refusal(tmp_path, ("a.parquet", data)).code == "file.bomb"


def test_a_damaged_parquet(tmp_path: Path) -> None:
    data = bytearray(parquet(tmp_path, "select 'text ' || i as text from range(5000) t(i)"))
    data[200:400] = bytes(200)
    assert refusal(tmp_path, ("a.parquet", bytes(data))).code == "file.broken"
    assert refusal(tmp_path, ("a.parquet", bytes(data[:-20]))).code == "file.broken"


def test_the_reader_of_parquet_reaches_nothing_else(tmp_path: Path) -> None:
    """Not even if its one file says so: a name is no pattern, and no other path is allowed."""
    (tmp_path / "b*").mkdir()
    (tmp_path / "b*" / "body").write_bytes(parquet(tmp_path, "select 'own' as text"))
    (tmp_path / "bb").mkdir()
    (tmp_path / "bb" / "body").write_bytes(parquet(tmp_path, "select 'other' as text"))
    into = tmp_path / "into"
    into.mkdir()
    manifest = unpacking.unpack([File("a.parquet", tmp_path / "b*" / "body")], into, MIB)
    assert (into / manifest.files[0]["file"]).read_text() == '{"text":"own"}\n'
