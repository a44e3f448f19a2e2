"""Malformed archives: compressed, cut, lying, leading out of themselves."""

import gzip
import io
import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import zstandard

from tests.datasets.containers.boxes import xlsx, zipped
from tests.datasets.containers.malformed_rows import MIB, Made, good_line, lines_of, mutated
from tests.datasets.files import jsonl, row


def packers() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "a.jsonl.gz": lambda data: gzip.compress(data, 6, mtime=0),
        "a.jsonl.zst": zstandard.compress,
        "a.zip": lambda data: zipped({"a.jsonl": data}),
    }


def packed_lines(pick: random.Random) -> Made:
    lines, bad = lines_of(pick)
    name, pack = pick.choice(list(packers().items()))
    return {
        "file_name": name,
        "data": pack(b"\n".join(lines)),
        "good": len(lines) - len(bad),
        "bad": bad,
    }


def packed_cut(pick: random.Random) -> Made:
    name, pack = pick.choice(list(packers().items()))
    data = pack(b"\n".join(good_line(pick) for _ in range(20)))
    return {
        "file_name": name,
        "data": data[: pick.randrange(5, len(data))],
        "codes": ("file.broken",),
    }


def packed_mutated(pick: random.Random) -> Made:
    name, pack = pick.choice(list(packers().items()))
    return {"file_name": name, "data": mutated(pick, pack(good_line(pick) * 5))}


@lru_cache
def bombs() -> dict[str, bytes]:
    zeros = b"0" * 40 * MIB
    return {name: pack(zeros) for name, pack in packers().items()} | {
        "b.csv.gz": gzip.compress(b"a,b\n" + (b"1" * 4999 + b",2\n") * 8000, mtime=0),
        "b.zip": zipped({f"{at}.jsonl": b" " * 5 * MIB for at in range(8)}),
        "b.xlsx": xlsx({}, {"xl/styles.xml": b"<a>" + b" " * 40 * MIB + b"</a>"}),
    }


def bomb(pick: random.Random) -> Made:
    name = pick.choice(list(bombs()))
    codes = ("file.bomb", "file.description")
    return {"file_name": name, "data": bombs()[name], "codes": codes}


def nested(pick: random.Random) -> Made:
    data = jsonl(row())
    name = pick.choice(list(packers()))
    for _ in range(pick.randrange(2, 5)):
        data = packers()[name](data)
    return {"file_name": name, "data": data, "codes": ("file.nested",)}


# -- archives ----------------------------------------------------------------------------


def slip(pick: random.Random) -> Made:
    inner = pick.choice(
        ["../a.jsonl", "../../../../tmp/escaped.jsonl", "/etc/cron.d/a.jsonl", "C:\\a.jsonl",
         "..\\..\\a.jsonl", "ok/../../a.jsonl", "//server/a.jsonl"]
    )  # fmt: skip
    data = zipped({"good.jsonl": jsonl(row()), inner: jsonl(row())})
    return {"file_name": "a.zip", "data": data, "codes": ("file.zip.path",)}


def link(pick: random.Random) -> Made:
    kinds = [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK]
    entry = zipfile.ZipInfo("a.jsonl")
    entry.create_system, entry.external_attr = 3, (pick.choice(kinds) | 0o777) << 16
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(entry, pick.choice(["/etc/passwd", "../../../etc/shadow", "b"]))
        archive.writestr(zipfile.ZipInfo("b.jsonl"), jsonl(row()))
    return {"file_name": "a.zip", "data": data.getvalue(), "codes": ("file.zip.link",)}


def lying_zip(pick: random.Random) -> Made:
    """Sizes, names, flags or methods that are not so."""
    data = bytearray(zipped({"a.jsonl": jsonl(row()) * 50, "b.jsonl": jsonl(row())}))
    central = data.index(b"PK\x01\x02")
    what = pick.randrange(6)
    codes: tuple[str, ...] = ("file.broken",)
    if what == 0:
        struct.pack_into("<I", data, central + 24, pick.choice([1, 100]))
    elif what == 1:
        struct.pack_into("<I", data, central + 20, pick.choice([1, 50]))
    elif what == 2:
        data[6] |= 1
        data[central + 8] |= 1
        codes = ("file.zip.encrypted",)
    elif what == 3:
        struct.pack_into("<H", data, central + 10, pick.choice([1, 6, 9, 12, 14, 93, 97]))
        codes = ("file.zip.method",)
    elif what == 4:
        data = bytearray(bytes(data).replace(b"b.jsonl", b"a.jsonl"))
        codes = ("file.zip.twice",)
    else:
        struct.pack_into("<I", data, central + 42, pick.choice([7, 2**31, 2**32 - 1]))
    return {"file_name": "a.zip", "data": bytes(data), "codes": codes}


def strange_info(pick: random.Random) -> Made:
    entry: Any = pick.choice(
        [5, None, [], {}, {"file_name": 5}, {"file_name": "../../etc/passwd"}, {"file_name": ""},
         {"hf_hub_url": "a/b"}, {"script_url": "x.py"}, {"file_name": "missing.json"},
         {"file_name": "a.json", "formatting": 5}, {"file_name": "a.json", "columns": 5},
         {"file_name": "a.json", "columns": {"prompt": 5}}, {"file_name": "a.json", "tags": [1]}]
    )  # fmt: skip
    info = json.dumps({"x": entry}).encode()
    if pick.random() < 0.2:
        info = mutated(pick, info)
        return {"file_name": "a.zip", "data": zipped({"dataset_info.json": info, "a.json": b"{}"})}
    return {
        "file_name": "a.zip",
        "data": zipped({"dataset_info.json": info, "a.json": jsonl(row())}),
        "codes": ("info.missing", "info.remote", "info.formatting", "info.columns", "info.tags"),
    }
