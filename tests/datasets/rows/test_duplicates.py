import random
from pathlib import Path

import pytest

from app.datasets.rows import duplicates
from app.datasets.rows.duplicates import Hashes


def files(tmp_path: Path, counts: list[int], seed: int, width: int, at: int) -> list[Hashes]:
    pick = random.Random(seed)
    made = []
    for number, count in enumerate(counts):
        path = tmp_path / f"{seed}-{number}"
        rows = [pick.randrange(500).to_bytes(16, "big") for _ in range(count)]
        tail = width - at - 16
        path.write_bytes(b"".join(b"\xff" * at + one[::-1] + b"\xff" * tail for one in rows))
        made.append(Hashes(path, width, at))
    return made


def hashes(files: list[Hashes]) -> list[bytes]:
    return [
        data[at : at + 16]
        for file in files
        for data in [file.path.read_bytes()]
        for at in range(file.at, len(data), file.width)
    ]


@pytest.mark.parametrize("part", [10, 100, 10_000])
@pytest.mark.parametrize(("width", "at"), [(16, 0), (40, 0), (40, 16)])
def test_repeats_and_what_is_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, width: int, at: int
) -> None:
    monkeypatch.setattr(duplicates, "PART", part)
    monkeypatch.setattr(duplicates, "FEW", 2 * part)
    monkeypatch.setattr(duplicates, "CHUNK", 1000)
    mine = files(tmp_path, [300, 0, 200], 1, width, at)
    others = files(tmp_path, [50, 350], 2, width, at)
    rows = hashes(mine)
    first: dict[bytes, int] = {}
    expected = []
    for number, one in enumerate(rows):
        if first.setdefault(one, number) != number:
            expected.append((number, first[one]))
    assert sorted(duplicates.repeats(mine)) == expected
    theirs: dict[bytes, int] = {}
    for number, one in enumerate(hashes(others)):
        theirs.setdefault(one, number)
    shared = [(number, theirs[one]) for number, one in enumerate(rows) if one in theirs]
    assert sorted(duplicates.common(mine, others)) == shared
    assert list(duplicates.repeats([])) == []
    assert list(duplicates.common(mine, [])) == []
