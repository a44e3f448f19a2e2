import random
from pathlib import Path

import orjson
import pytest

from app.datasets import segments


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
    index = orjson.loads((tmp_path / segments.INDEX).read_bytes())
    assert [start for start, _, _ in index["frames"]] == [0, 1, 2, 3, 4]
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
