"""Who is shown what, in which order. Pure: each rater has an order of their own, always the same."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A candidate's answer to a row; `flipped`: of a pair it stands first."""

    number: int
    candidate_id: str
    flipped: bool


def drawn(numbers: Sequence[int], rows: int, seed: int) -> list[int]:
    """So many of the rows, always the same."""
    ordered = sorted(numbers)
    if rows >= len(ordered):
        return ordered
    return sorted(random.Random(seed).sample(ordered, rows))  # noqa: S311 - no secret


def items(
    round_id: str, user_id: str, numbers: Sequence[int], candidate_ids: Sequence[str]
) -> list[Item]:
    """All that this rater is shown, shuffled by the round and the rater."""
    salt = f"{round_id}/{user_id}"
    found = [
        Item(number, one, bool(digest(f"{salt}/{number}/{one}") & 1))
        for number in numbers
        for one in candidate_ids
    ]
    return sorted(found, key=lambda one: digest(f"{salt}:{one.number}:{one.candidate_id}"))


def digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def turned(value: int) -> int:
    """Of a pair whose first answer is the candidate's: better for the one is worse for the other."""
    return 4 - value
