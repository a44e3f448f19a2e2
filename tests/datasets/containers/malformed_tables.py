"""Malformed tables: CSV, sheets and Parquet; and prose, which can hardly be malformed."""

import random
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb

from tests.datasets.containers.boxes import xlsx
from tests.datasets.containers.malformed_rows import Made, mutated, random_bytes


def bad_csv(pick: random.Random) -> Made:
    """Rows whose cells are too many, too few, or badly quoted, and good ones over several lines."""
    delimiter = pick.choice([",", ";", "\t"])
    text, number = f"instruction{delimiter}output\n", 1
    good, bad = 0, []
    for _ in range(pick.randrange(12, 20)):
        number += 1
        kind = pick.choices(
            ["plain", "quoted", "formula", "few", "many", "quote"], [9, 4, 2, 1, 1, 1]
        )[0]
        if kind == "plain":
            line = f"问 {number}{delimiter}答"
        elif kind == "quoted":
            line = f'"a{delimiter} ""b""\nc"{delimiter}"d\n\ne"'
        elif kind == "formula":
            line = f"=cmd|' /C calc'!A0{delimiter}@SUM(1+1)"
        elif kind == "few":
            line = "alone"
        elif kind == "many":
            line = delimiter.join("abcd")
        else:
            line = f'"x"y{delimiter}z'
        if kind in ("few", "many", "quote"):
            bad.append(number)
        else:
            good += 1
        number += line.count("\n")
        text += line + "\n"
    codec = pick.choice(["utf-8", "utf-8-sig", "gb18030", "utf-16"])
    return {
        "file_name": pick.choice(["a.csv", "a.tsv"]),
        "data": text.encode(codec),
        "good": good,
        "bad": tuple(bad),
    } if good else {"file_name": "a.csv", "data": text.encode(codec)}  # fmt: skip


def mutated_csv(pick: random.Random) -> Made:
    data = 'instruction,output\n"一, ""二""\n三",四\n五,六\n'.encode() * 2
    return {"file_name": "a.csv", "data": mutated(pick, data)}


def headless_csv(pick: random.Random) -> Made:
    text = pick.choice(
        [
            "a,a\n1,2\n",
            "x" * 300 + ",b\n1,2\n",
            '"open\n' * 5,
            ",".join(map(str, range(1100))) + "\n1\n",
        ]
    )
    codes = ("file.header", "file.column_twice", "file.columns")
    return {"file_name": "a.csv", "data": text.encode(), "codes": codes}


def book(pick: random.Random) -> Made:
    """Formulas, with and without the result that Excel stored, errors, gaps."""
    rows: dict[int, list[Any]] = {1: ["instruction", "output"]}
    number = 1
    for _ in range(pick.randrange(1, 9)):
        number += pick.randrange(1, 40)
        value: Any = pick.choice(
            ["文字", 5, {"f": "1+1", "v": 2}, {"f": 'HYPERLINK("http://x","y")'},
             {"t": "e", "f": "1/0", "v": "#DIV/0!"}, {"t": "b", "v": 1},
             {"t": "str", "f": "cmd|' /C calc'!A0", "v": "kept"}]
        )  # fmt: skip
        rows[number] = ["问", value]
    return {
        "file_name": "a.xlsx",
        "data": xlsx({"S": rows, "other": {1: ["x"]}}),
        "good": len(rows) - 1,
        "bad": (),
    }


def bad_book(pick: random.Random) -> Made:
    part, xml, codes = pick.choice(
        [
            (
                "xl/workbook.xml",
                b"<!DOCTYPE a [<!ENTITY b 'c'>]><workbook>&b;</workbook>",
                "file.broken",
            ),
            ("xl/worksheets/sheet1.xml", b"<worksheet><sheetData><row>", "file.broken"),
            (
                "xl/worksheets/sheet1.xml",
                b"<w><row r='99999999'><c><v>1</v></c></row></w>",
                "file.broken",
            ),
            (
                "xl/worksheets/sheet1.xml",
                b"<w><row r='8'><c r='ZZZ8'><v>1</v></c></row></w>",
                "file.broken",
            ),
            (
                "xl/worksheets/sheet1.xml",
                b"<w><row><c t='s'><v>99</v></c></row></w>",
                "file.broken",
            ),
            ("xl/worksheets/sheet1.xml", b"<w>" * 5000, "file.broken"),
            ("xl/worksheets/sheet1.xml", b"\x00\x01", "file.broken"),
            ("xl/worksheets/sheet1.xml", b"<w/>", "file.no_rows"),
            ("xl/sharedStrings.xml", b"<sst><si><t>cut", "file.broken"),
            ("xl/_rels/workbook.xml.rels", b"<Relationships/>", "file.no_rows"),
        ]
    )
    data = xlsx({"S": {1: ["instruction", "output"], 2: ["a", "b"]}}, {part: xml})
    return {"file_name": "a.xlsx", "data": data, "codes": (codes,)}


def mutated_book(pick: random.Random) -> Made:
    data = xlsx({"S": {1: ["instruction", "output"], 2: ["a", "b"], 3: ["c", 5]}})
    return {"file_name": "a.xlsx", "data": mutated(pick, data)}


@lru_cache
def columns() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.parquet"
        query = """select 'q' || i as instruction, 'a' || hash(i) as output, [i, i + 1] as list,
            {'a': i} as s from range(300) t(i)"""
        duckdb.sql(query).write_parquet(path)
        return Path(path).read_bytes()


def mutated_parquet(pick: random.Random) -> Made:
    """One in four of these is a file; a process reads each, which takes its time."""
    if pick.random() < 0.75:
        return random_bytes(pick)
    data = pick.choice([mutated(pick, columns()), columns()[: pick.randrange(4, len(columns()))]])
    return {"file_name": "a.parquet", "data": data}


def prose(pick: random.Random) -> Made:
    text = "".join(pick.choices(["字", "word ", "\n", "\n\n", "\u2028", "# ", "😀"], k=300))
    text = "开始" + text
    codec = pick.choice(["utf-8", "utf-8-sig", "gb18030", "utf-16"])
    name = pick.choice(["a.txt", "a.md"])
    return {"file_name": name, "data": text.encode(codec), "good": 1, "bad": ()}
