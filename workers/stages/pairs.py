"""Preferences and judged answers as pairs of texts, and the batches that TRL's losses take."""

import random
from collections import defaultdict
from typing import Any

import torch

from workers.stages.prepare import Examples

IGNORE = -100
Batch = dict[str, Any]


class Rows:
    """The rows to learn from, as numbers of texts of `examples`: (chosen, rejected), or for KTO
    (the judged answer, one that was given to another question).
    """

    def __init__(self, examples: Examples, stage: str, seed: int) -> None:
        self.examples = examples
        self.kto = stage == "kto"
        self.pairs = mismatched(examples, seed) if self.kto else matched(examples)
        self.longest = max(examples.lengths)
        # what a row takes in a batch: two texts, padded to the longer one
        self.lengths = [2 * self.longer(*pair) for pair in self.pairs]
        self.reference: list[tuple[float, float]] | None = None  # log probabilities, per row

    def __len__(self) -> int:
        return len(self.pairs)

    def longer(self, first: int, second: int) -> int:
        lengths = self.examples.lengths
        if not self.kto:
            return max(lengths[first], lengths[second])
        there, other = (question(self.examples[number][1]) for number in (first, second))
        return max(lengths[first], min(there + lengths[second] - other, self.longest))

    def texts(self, row: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Both texts: ids, and which of them are the answer's. KTO's second text is the question of
        the first with the answer of another.
        """
        first, second = (self.examples[number] for number in self.pairs[row])
        if self.kto:
            start, other = question(first[1]), question(second[1])
            ids = first[0][:start] + second[0][other:]
            answer = bytearray(start) + second[1][other:]
            second = ids[: self.longest], answer[: self.longest]
        return first, second

    def tokens(self, rows: list[int]) -> int:
        """Of all texts, without padding, and without KTO's second texts, which nothing is learnt from."""
        numbers = [number for row in rows for number in self.pairs[row][: 1 if self.kto else 2]]
        return sum(self.examples.lengths[number] for number in numbers)


def question(answer: bytearray) -> int:
    """How many tokens stand before the answer."""
    return len(answer) - len(answer.lstrip(b"\0"))


def matched(examples: Examples) -> list[tuple[int, int]]:
    """The chosen and the rejected answer of each row; one whose other was dropped is left out."""
    rows: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, (row, good) in enumerate(zip(examples.rows, examples.good, strict=True)):
        rows[row][not good].append(number)
    return [pair for chosen, rejected in rows.values() for pair in zip(chosen, rejected)]  # noqa: B905


def mismatched(examples: Examples, seed: int) -> list[tuple[int, int]]:
    """Each answer beside the one that follows it in a shuffled ring: KTO estimates with them how
    far the model has moved from the reference in general.
    """
    order = list(range(len(examples)))
    random.Random(f"{seed} kto").shuffle(order)  # noqa: S311 - an order, not a secret
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [(number, following[number]) for number in range(len(examples))]


# -- batches -------------------------------------------------------------------------------


def padded(texts: list[tuple[Any, Any]], fill: int) -> tuple[torch.Tensor, ...]:
    """ids, attention and answers: (texts, tokens) int64, padding on the right."""
    widest = max(len(ids) for ids, _ in texts)
    ids = torch.full((len(texts), widest), fill)
    attention, answers = torch.zeros_like(ids), torch.zeros_like(ids)
    for place, (tokens, flags) in enumerate(texts):
        length = len(tokens)
        ids[place, :length] = torch.frombuffer(tokens, dtype=torch.int32)
        attention[place, :length] = 1
        answers[place, :length] = torch.frombuffer(flags, dtype=torch.uint8) > 0
    return ids, attention, answers


def collate(rows: Rows, chosen: list[int], style: str, fill: int) -> Batch:
    """The batch as the TRL trainer of this style takes it."""
    texts = [rows.texts(row) for row in chosen]
    first, second = [one for one, _ in texts], [other for _, other in texts]
    if style == "odds":
        batch: Batch = {}
        for name, side in (("chosen", first), ("rejected", second)):
            ids, attention, answers = padded(side, fill)
            batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"] = ids, attention
            batch[f"{name}_labels"] = ids.masked_fill(answers == 0, IGNORE)
        return batch
    names = ("input_ids", "attention_mask", "completion_mask")
    if style == "kto":
        batch = dict(zip(names, padded(first, fill), strict=True))
        others = zip(names, padded(second, fill), strict=True)
        batch |= {f"KL_{name}": value for name, value in others}
        batch["label"] = torch.tensor(
            [bool(rows.examples.good[rows.pairs[row][0]]) for row in chosen]
        )
        references = ("ref_logps", "ref_KL_logps")
    else:
        batch = dict(zip(names, padded(first + second, fill), strict=True))
        references = ("ref_chosen_logps", "ref_rejected_logps")
    if style == "reward":
        del batch["completion_mask"]
    if rows.reference is not None:
        known = torch.tensor([rows.reference[row] for row in chosen])
        batch[references[0]], batch[references[1]] = known[:, 0], known[:, 1]
    return batch
