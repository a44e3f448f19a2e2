"""Files that people upload by mistake or in malice, made from a seed, and what must become of each.

The same seed and number give the same bytes. A case says what is known of it: the codes one of
which refuses the file; or the rows that are kept and the lines of those reported; or only that
each row is one or the other; or nothing but that the answer is clear.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.datasets.containers.malformed_boxes import (
    bomb,
    link,
    lying_zip,
    nested,
    packed_cut,
    packed_lines,
    packed_mutated,
    slip,
    strange_info,
)  # fmt: skip
from tests.datasets.containers.malformed_rows import (
    Made,
    a_long_line,
    bad_array,
    bad_jsonl,
    broken_encoding,
    cut_array,
    encoded,
    mixed_ends,
    mutated_jsonl,
    nothing,
    other_types,
    random_bytes,
)  # fmt: skip
from tests.datasets.containers.malformed_tables import (
    bad_book,
    bad_csv,
    book,
    headless_csv,
    mutated_book,
    mutated_csv,
    mutated_parquet,
    prose,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    file_name: str
    write: Callable[[Path], object]
    codes: tuple[str, ...] = ()  # the file is refused with one of these
    good: int | None = None  # rows that are kept
    bad: tuple[int, ...] | None = None  # lines that are reported as errors, each once
    rows: int | None = None  # good and bad together


KINDS: list[Callable[[random.Random], Made]] = [
    a_long_line, bad_jsonl, bad_array, bad_csv, mutated_jsonl, encoded, slip, bomb, link, book,
    mixed_ends, cut_array, broken_encoding, nothing, random_bytes, other_types, packed_lines,
    packed_cut, packed_mutated, nested, lying_zip, strange_info, mutated_csv, headless_csv,
    bad_book, mutated_book, mutated_parquet, prose, bad_jsonl, mutated_jsonl,
]  # fmt: skip


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` of them: every kind in turn, then again with other details."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        made = kind(random.Random(f"{seed}.{number}"))
        data = made.pop("data", b"")
        write = made.pop("write", lambda path, data=data: path.write_bytes(data))
        yield Case(name=f"{number}-{kind.__name__}", write=write, **made)
