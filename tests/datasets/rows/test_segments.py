import random
import time
from pathlib import Path

import orjson
import pytest

from app.datasets.rows import segments


def rows(count: int) -> list[dict[str, object]]:
    return [
        {"id": f"r.{at}", "messages": [{"role": "user", "content": "行" * (at % 7)}]}
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 3500])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    made = rows(count)
    written = segments.write(iter(made), tmp_path)
    assert written.rows == count
    assert list(segments.read(tmp_path)) == made


def test_any_stretch(tmp_path: Path) -> None:
    made = rows(3210)
    segments.write(made, tmp_path)
    pick = random.Random(5)
    for _ in range(300):
        start, count = pick.randrange(3300), pick.randrange(2500)
        assert list(segments.read(tmp_path, start, count)) == made[start : start + count]
    assert list(segments.read(tmp_path, 3000)) == made[3000:]


def test_long_rows_have_frames_of_their_own(tmp_path: Path) -> None:
    made = [{"id": str(at), "text": "x" * 700_000} for at in range(5)]
    segments.write(made, tmp_path)
    assert list(segments.index(tmp_path).starts) == [0, 1, 2, 3, 4]
    assert list(segments.read(tmp_path, 3, 1)) == made[3:4]


def test_the_name_is_of_the_rows(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first = segments.write(rows(10), tmp_path / "a")
    assert segments.write(rows(10), tmp_path / "b") == first
    assert segments.write(rows(11), tmp_path / "c") != first
    assert first.artefact == f"segments/{first.sha256}"


def test_text_with_newlines_and_odd_characters(tmp_path: Path) -> None:
    made = [{"id": "1", "text": "a\nb\r\u2028\u0085\x0b😀"}, {"id": "2", "text": ""}]
    segments.write(made, tmp_path)
    assert list(segments.read(tmp_path)) == made


def test_the_index_as_it_was_first_written(tmp_path: Path) -> None:
    made = rows(1200)
    segments.write(made, tmp_path)
    known = segments.index(tmp_path)
    ends = known.offsets[1:]
    frames = [
        [start, offset, end - offset]
        for start, offset, end in zip(known.starts, known.offsets, ends, strict=False)
    ]
    (tmp_path / segments.INDEX).write_bytes(orjson.dumps({"rows": 1200, "frames": frames}))
    segments.index.cache_clear()
    assert list(segments.read(tmp_path)) == made
    assert list(segments.read(tmp_path, 700, 5)) == made[700:705]


def test_rows_that_are_not_compressed_yet(tmp_path: Path) -> None:
    made = rows(1000)
    with segments.Plain(tmp_path, "r") as out:
        for at in range(0, 1000, 300):
            numbers = list(range(at, min(at + 300, 1000)))
            frame = [
                orjson.dumps(made[n] | {"id": None}).replace(b'"id":null,', b"") for n in numbers
            ]
            out.add(
                b"".join(one + b"\n" for one in frame),
                numbers,
                [b"%016d" % number for number in numbers],
            )
    assert out.rows == 1000
    assert list(segments.read(tmp_path)) == made
    assert list(segments.read(tmp_path, 299, 302)) == made[299:601]
    assert list(segments.read(tmp_path, 1000)) == []
    assert list(segments.hashes(tmp_path) or ()) == [b"%016d" % number for number in range(1000)]
    (tmp_path / "packed").mkdir()
    packed = segments.pack(segments.lines(tmp_path), tmp_path / "packed")
    assert packed.rows == 1000
    assert list(segments.read(tmp_path / "packed")) == made
    assert segments.hashes(tmp_path / "packed") is None


def test_any_row_of_many_is_near(tmp_path: Path) -> None:
    segments.write(({"id": f"r.{at}", "text": "x" * 300} for at in range(100_000)), tmp_path)
    segments.index(tmp_path)
    pick = random.Random(1)
    took = []
    for _ in range(50):
        at = pick.randrange(100_000)
        started = time.perf_counter()
        assert next(segments.read(tmp_path, at, 1))["id"] == f"r.{at}"
        took.append(time.perf_counter() - started)
    assert sorted(took)[25] < 0.001
