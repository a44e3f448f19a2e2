"""How many rows of each dataset an epoch has, and which."""

import pytest

from app.errors import Invalid
from app.jobs import mixing
from app.jobs.mixing import Amount


@pytest.mark.parametrize(
    ("amounts", "counts"),
    [
        ([Amount(100)], [100]),
        ([Amount(100, 2.5), Amount(10, 0.1), Amount(7, 0.01)], [250, 1, 1]),
        ([Amount(11, 0.5)], [6]),  # halves go up
        ([Amount(200, 0.145)], [29]),
        ([Amount(1000), Amount(500, None, 20)], [1000, 250]),
        ([Amount(600), Amount(500, None, 20), Amount(90, None, 50)], [600, 400, 1000]),
    ],
)
def test_rows_of_an_epoch(amounts: list[Amount], counts: list[int]) -> None:
    if counts == [600, 400, 1000]:
        with pytest.raises(Invalid, match="more than 10 times the 90 rows"):
            mixing.effective(amounts)
        amounts = [*amounts[:2], Amount(100, None, 50)]
    assert mixing.effective(amounts) == counts
    assert mixing.effective(amounts[::-1]) == counts[::-1]


@pytest.mark.parametrize("shares", [(60, 40), (99.9, 0.1)])
def test_shares_leave_something(shares: tuple[float, float]) -> None:
    with pytest.raises(Invalid, match="below 100 %"):
        mixing.effective([Amount(10), *(Amount(10, None, share) for share in shares)])


@pytest.mark.parametrize(("rows", "wanted"), [(1000, 300), (1000, 1000), (1000, 2500), (7, 1)])
def test_copies_are_exact_seeded_and_named(rows: int, wanted: int) -> None:
    found = list(mixing.copies(rows, wanted, 42, "dv_a"))
    assert len(found) == rows
    assert sum(found) == wanted
    assert set(found) <= {wanted // rows, wanted // rows + 1}
    assert found == list(mixing.copies(rows, wanted, 42, "dv_a"))
    if wanted % rows > 1:
        assert found != list(mixing.copies(rows, wanted, 43, "dv_a"))
        assert found != list(mixing.copies(rows, wanted, 42, "dv_b"))
    assert list(mixing.copies(0, 5, 42, "dv_a")) == []


def test_every_row_is_as_likely() -> None:
    drawn = [0] * 10
    for seed in range(2000):
        for place, count in enumerate(mixing.copies(10, 3, seed, "dv_a")):
            drawn[place] += count
    assert all(500 < count < 700 for count in drawn)


def test_rows_held_back() -> None:
    counts = [mixing.held_back(rows, 0.1, 1000) for rows in (2, 10, 25, 5_000, 5_000_000)]
    assert counts == [1, 1, 3, 500, 1000]
    assert mixing.held_back(2, 0.9, 1000) == 1
    with pytest.raises(Invalid, match="too few rows"):
        mixing.held_back(1, 0.1, 1000)
