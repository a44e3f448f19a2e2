"""Malformed text: rows as JSON, and files that are none."""

import json
import random
from pathlib import Path
from typing import Any

from tests.datasets.files import jsonl, row

MIB = 2**20
GIB = 2**30

Made = dict[str, Any]  # {file_name, data or write, codes, good, bad, rows}: see malformed.Case


def good_row(pick: random.Random) -> dict[str, Any]:
    words = [
        "问题",
        "答案",
        "emoji 😀",
        "tab\t",
        'quote "x"',
        "back\\slash",
        "line\nend",
        "\u2028",
        "é",
    ]
    return row(" ".join(pick.choices(words, k=4)), " ".join(pick.choices(words, k=5)))


def good_line(pick: random.Random) -> bytes:
    return json.dumps(good_row(pick), ensure_ascii=pick.random() < 0.5).encode()


def turns(content: bytes) -> bytes:
    return (
        b'{"messages": [{"role": "user", "content": ' + content + b"}, "
        b'{"role": "assistant", "content": "b"}]}'
    )


def bad_line(pick: random.Random) -> bytes:
    """A line that can be no row of a file of messages, whatever is around it."""
    return pick.choice(
        [
            good_line(pick)[: -pick.randrange(1, 20)],  # truncated
            b'{"messages": [',
            b"nonsense",
            b"null",
            b"5",
            b'"text"',
            b"[1, 2]",
            b'{"messages": null}',
            b'{"messages": {}}',
            b'{"messages": "a"}',
            b'{"messages": 1e999}',
            b'{"messages": [null]}',
            b'{"messages": ' + b"9" * pick.randrange(400, 9000) + b"}",
            b'{"messages": -0.' + b"0" * 5000 + b"1}",
            b'{"messages": [{"role": "user", "content": "a"}]}',
            b'{"messages": [{"role": 5, "content": "a"}]}',
            turns(b"5"),
            turns(b"[5]"),
            turns(b"null"),
            turns(b"NaN"),
            turns(b'"a\x00b"'),
            turns(b'"a\\u0000b"'),
            turns(b'"\\ud800"'),
            turns(b'"\\udc00\\ud800"'),
            turns(b'"\xff\xfe"'),
            turns(b'"\xed\xa0\x80"'),
            turns(b'"\xc0\xaf"'),
            turns(b'"\xf4\x90\x80\x80"'),
            turns(b'"a\x01b"'),
            turns(b'"\\x"'),
            b"[" * 3000 + b"]" * 3000,
            b'{"a":' * 3000 + b"1" + b"}" * 3000,
            turns(b"[" * 2000 + b"]" * 2000),
            b'{"a": 1} {"b": 2}',
            good_line(pick) + b",",
            b"<html><body>404</body></html>",
            b"!" + json.dumps(["row.format", "%(x)s", {}]).encode(),
        ]
    )


def lines_of(pick: random.Random) -> tuple[list[bytes], tuple[int, ...]]:
    """Lines, the first good, and the numbers of the bad ones."""
    chosen = [True, *(pick.random() < 0.6 for _ in range(pick.randrange(1, 12)))]
    lines = [good_line(pick) if good else bad_line(pick) for good in chosen]
    return lines, tuple(at for at, good in enumerate(chosen, start=1) if not good)


def bad_jsonl(pick: random.Random) -> Made:
    lines, bad = lines_of(pick)
    end = pick.choice([b"\n", b"\r\n"])
    data = pick.choice([b"", b"\xef\xbb\xbf"]) + end.join(lines) + pick.choice([b"", end])
    return {
        "file_name": pick.choice(["a.jsonl", "a.json", "a", "数据.jsonl"]),
        "data": data,
        "good": len(lines) - len(bad),
        "bad": bad,
    }


def mixed_ends(pick: random.Random) -> Made:
    lines, bad = [], []
    data = b""
    number = 0
    for _ in range(pick.randrange(2, 12)):
        number += 1
        good = number == 1 or pick.random() < 0.7
        lines.append(good_line(pick) if good else b'{"messages": 5}')
        bad += [] if good else [number]
        data += lines[-1] + pick.choice([b"\n", b"\r\n", b"\r\r\n", b" \n", b"\t\r\n"])
        for _ in range(pick.randrange(3)):
            number += 1
            data += pick.choice([b"\n", b"\r\n", b"   \n"])
    return {
        "file_name": "a.jsonl",
        "data": data,
        "good": len(lines) - len(bad),
        "bad": tuple(bad),
    }


def bad_array(pick: random.Random) -> Made:
    """An array whose bad elements are well-formed, so that it is known where they end."""
    elements, bad = [good_line(pick)], []
    for number in range(2, pick.randrange(3, 12)):
        good = pick.random() < 0.6
        wrong = [
            b"5",
            b"null",
            b'"x"',
            b"{}",
            b'{"messages": 5}',
            b'{"messages": [[]]}',
            turns(b"{}"),
        ]
        elements.append(good_line(pick) if good else pick.choice(wrong))
        bad += [] if good else [number]
    between = pick.choice([b",", b", ", b",\n", b"\n,\r\n"])
    data = b"[" + between.join(elements) + b"]"
    return {
        "file_name": "a.json",
        "data": data,
        "good": len(elements) - len(bad),
        "bad": tuple(bad),
    }


def cut_array(pick: random.Random) -> Made:
    data = b"[" + b",\n".join(good_line(pick) for _ in range(pick.randrange(1, 8))) + b"]"
    return {"file_name": "a.json", "data": data[: pick.randrange(1, len(data))]}


def mutated_jsonl(pick: random.Random) -> Made:
    """Any damage that adds no line: every line is kept or reported."""
    lines = []
    for _ in range(pick.randrange(1, 9)):
        line = mutated(pick, good_line(pick)).replace(b"\n", b"").replace(b"\r", b"")
        lines.append(line)
    data = good_line(pick) + b"\n" + b"\n".join(lines)
    filled = sum(bool(line.strip(b" \t\r\n")) for line in lines)
    return {"file_name": "a.jsonl", "data": data, "rows": filled + 1}


def mutated(pick: random.Random, data: bytes) -> bytes:
    """Bytes changed, lost, doubled, inserted; what is at the end cut off."""
    changed = bytearray(data)
    for _ in range(pick.choice([1, 1, 2, 5, 20])):
        at = pick.randrange(len(changed) + 1)
        match pick.randrange(5):
            case 0:
                changed[at:at] = pick.randbytes(pick.randrange(1, 9))
            case 1:
                del changed[at : at + pick.randrange(1, 30)]
            case 2:
                changed[at : at + 1] = bytes([pick.randrange(256)])
            case 3:
                changed[at:at] = pick.choice(
                    [b"\0" * 9, b'"', b"\\", b"{", b"]", b",", b"\xff\xfe"]
                )
            case _:
                changed[at:at] = changed[at : at + pick.randrange(60)]
    return bytes(changed[: pick.randrange(len(changed) + 1)] if pick.random() < 0.15 else changed)


def encoded(pick: random.Random) -> Made:
    """Good rows in an encoding that is not UTF-8, or with a BOM."""
    rows = [row(f"问题{at}，请回答", "这是答案。") for at in range(pick.randrange(1, 6))]
    codec = pick.choice(
        ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "gb18030"]
    )
    text = jsonl(*rows).decode()
    if pick.random() < 0.3:
        text = json.dumps(rows, ensure_ascii=False, indent=pick.choice([None, 1]))
    if codec in ("utf-16-be", "utf-32-be") and pick.random() < 0.5:
        text = "\ufeff" + text
    return {"file_name": "a.json", "data": text.encode(codec), "good": len(rows), "bad": ()}


def broken_encoding(pick: random.Random) -> Made:
    text = "".join(good_line(pick).decode() + "\n" for _ in range(4))
    data = text.encode(pick.choice(["utf-16", "utf-16-le", "utf-32", "gb18030"]))
    return {"file_name": pick.choice(["a.jsonl", "a.csv", "a.txt"]), "data": mutated(pick, data)}


def nothing(pick: random.Random) -> Made:
    data = pick.choice(
        [b"", b"\n", b" \r\n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"\n" * 5000]
    )
    return {
        "file_name": pick.choice(["a.jsonl", "a.csv", "a.txt", "a.json"]),
        "data": data,
        "codes": ("file.empty", "file.no_rows", "file.header"),
    }


def random_bytes(pick: random.Random) -> Made:
    alphabet = pick.choice([bytes(range(256)), b'{}[]",:\\ \nae0', b"\x00\xff\n{}", b",;\"'\n\tab"])
    data = bytes(pick.choices(alphabet, k=pick.randrange(1, 3000)))
    ends = ".jsonl .json .csv .tsv .txt .md .gz .zst .zip .xlsx .parquet .exe".split()
    return {"file_name": "a" + pick.choice(ends), "data": data}


def other_types(pick: random.Random) -> Made:
    start = pick.choice(
        [b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"7z\xbc\xaf\x27\x1c",
         b"Rar!\x1a\x07", b"\x7fELF", b"SQLite format 3\0", b"\x80\x04\x95", b"\xd0\xcf\x11\xe0",
         b"BZh9", b"\xfd7zXZ\0", b"ARROW1\0\0"]
    )  # fmt: skip
    name = pick.choice(["a.jsonl", "a.csv", "a.txt", "a.gz", "a.pdf"])
    return {"file_name": name, "data": start + pick.randbytes(500), "codes": ("file.type",)}


def a_long_line(pick: random.Random) -> Made:
    """A row of 1 GB, of which the disk holds a block, then a good one. Mostly 20 MB: it is slow."""
    return long_line(GIB if pick.random() < 1 / 40 else 20 * MIB)


def long_line(size: int) -> Made:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b'{"messages": "' + b"x" * 300)
            file.seek(size)
            file.write(b'"}\n' + jsonl(row()))

    return {"file_name": "a.jsonl", "write": write, "good": 1, "bad": (1,)}
