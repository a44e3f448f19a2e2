"""Which rows make up each step, and how a step is cut into forward passes.

The order depends on the seed and the lengths alone, so that any step can be found again without
taking those before it: that is what makes a resumed run go on as if nothing had happened.
"""

import math
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from app.jobs.spec import Hyperparameters

WINDOW = 32  # steps whose rows are sorted by length together


class Plan:
    """The whole run, as lists of example numbers: one list per step, steps counted from 1."""

    def __init__(self, lengths: Sequence[int], hyperparameters: Hyperparameters) -> None:
        self.lengths = lengths
        self.seed = hyperparameters.seed
        self.rows = hyperparameters.batch_size * hyperparameters.gradient_accumulation
        self.per_epoch = math.ceil(len(lengths) / self.rows)
        self.total = hyperparameters.max_steps or max(
            1, math.ceil(round(hyperparameters.epochs * self.per_epoch, 6))
        )
        self.epoch = lru_cache(maxsize=1)(self._epoch)

    def step(self, number: int) -> list[int]:
        epoch, place = divmod(number - 1, self.per_epoch)
        return self.epoch(epoch)[place]

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Every example once, in steps of rows of similar length.

        Shuffle; sort each window of `WINDOW` steps by length, so that little padding is needed;
        shuffle the steps, so that lengths do not come in waves.
        """
        chance = random.Random(f"{self.seed} {epoch}")  # noqa: S311 - an order, not a secret
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        steps = []
        for start in range(0, len(order), WINDOW * self.rows):
            window = sorted(order[start : start + WINDOW * self.rows], key=self.lengths.__getitem__)
            steps += [window[i : i + self.rows] for i in range(0, len(window), self.rows)]
        chance.shuffle(steps)
        return steps


def passes(
    examples: Sequence[int],
    lengths: Sequence[int],
    *,
    most_rows: int,
    most_tokens: int,
    packed: bool = False,
) -> Iterator[list[int]]:
    """Cut `examples` into forward passes of at most `most_rows` rows and `most_tokens` tokens.

    Tokens are counted as the device sees them: with padding to the longest row, unless the rows
    are `packed` end to end. Longest first: what does not fit into memory fails at once, not after
    an hour. A row that is longer than `most_tokens` goes alone.
    """
    batch: list[int] = []
    held = 0  # tokens of a packed batch
    for example in sorted(examples, key=lengths.__getitem__, reverse=True):
        widest = lengths[batch[0]] if batch else 0
        tokens = held + lengths[example] if packed else widest * (len(batch) + 1)
        if batch and (len(batch) == most_rows or tokens > most_tokens):
            yield batch
            batch, held = [], 0
        batch.append(example)
        held += lengths[example]
    if batch:
        yield batch


def deal(examples: Sequence[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """`examples` over several devices: longest first, each to whoever has least to do."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for example in sorted(examples, key=lengths.__getitem__, reverse=True):
        least = tokens.index(min(tokens))
        shares[least].append(example)
        tokens[least] += lengths[example]
    return shares
