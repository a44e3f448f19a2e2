"""Exact histograms of token lengths, small enough for a row of the database.

What a measure found is kept as counts per length, so that any maximum length can be answered
later without reading a row again. Pure: the stage writes them, the console reads them.
"""

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

Pairs = list[tuple[int, int]]  # (length, how often), ascending

MAX_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)  # tokens: what people ask for
PER_OCTAVE = 4  # bins of a chart between a length and its double


@dataclass(frozen=True)
class Cut:
    """What a maximum length does to a dataset."""

    max_length: int  # tokens
    truncated: int  # rows that are longer, and still train something
    lost: int  # tokens that no training step sees
    trained_lost: int  # of them, those that would carry loss
    untrained: (
        int  # rows that train nothing: those that never do, and those cut before their answer
    )
    late: int  # of them, those cut before their answer
    pieces: int  # pre-training texts are cut into so many, and nothing is lost; 0 for others


def pack(counts: Mapping[int, int]) -> str:
    """Counts as text: differences of the sorted lengths, then the counts."""
    lengths = sorted(counts)
    steps = [after - before for before, after in zip([0, *lengths], lengths, strict=False)]
    numbers = steps + [counts[length] for length in lengths]
    return base64.b64encode(zlib.compress(struct.pack(f"<{len(numbers)}q", *numbers))).decode()


def unpack(text: str) -> Pairs:
    data = zlib.decompress(base64.b64decode(text))
    numbers = struct.unpack(f"<{len(data) // 8}q", data)
    half = len(numbers) // 2
    return list(zip(accumulate(numbers[:half]), numbers[half:], strict=True))


def percentile(pairs: Pairs, share: float) -> int:
    """The smallest length that `share` (0 to 1) of all do not exceed; 0 of none."""
    total = sum(count for _, count in pairs)
    seen = 0
    for length, count in pairs:
        seen += count
        if seen >= share * total:
            return length
    return 0


def cut(result: Mapping[str, Any], max_length: int) -> Cut:
    """What `max_length` would do, from what the measure stage found (its measure.json)."""
    rows, texts = unpack(result["lengths"]), unpack(result["texts"])
    never = result["untrained"]["count"]
    if result["kind"] == "pretrain":
        step = max_length - 1
        pieces = sum(-((1 - length) // step) * count for length, count in texts)
        return Cut(max_length, 0, 0, 0, never, 0, pieces)
    late = sum(count for first, count in unpack(result["first"]) if first >= max_length)
    longer = sum(count for length, count in rows if length > max_length)
    lost = sum((length - max_length) * count for length, count in texts if length > max_length)
    changes = unpack(result["trained_at"])
    kept = sum((max_length - at) * change for at, change in changes if at < max_length)
    return Cut(max_length, longer - late, lost, result["trained"] - kept, never + late, late, 0)


def edges(longest: int) -> list[int]:
    """The first lengths of the bins of a chart, and the end of the last one: finer where short."""
    found = sorted({round(2 ** (step / PER_OCTAVE)) for step in range(PER_OCTAVE * 40)})
    end = next(at for at, edge in enumerate(found) if edge > longest)
    return found[: end + 1]


def bins(pairs: Pairs) -> list[dict[str, int]]:
    """[{first, last, rows}], without the empty ones at the short end."""
    bounds = edges(pairs[-1][0]) if pairs else []
    found = [{"first": first, "last": end - 1, "rows": 0} for first, end in pairwise(bounds)]
    at = 0
    for length, count in pairs:
        while length > found[at]["last"]:
            at += 1
        found[at]["rows"] += count
    start = next((at for at, one in enumerate(found) if one["rows"]), 0)
    return found[start:]
