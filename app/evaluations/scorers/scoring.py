"""One answer through one scorer, and the figure that many such scores make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.evaluations.scorers import labels, overlap, rules
from app.evaluations.scorers.schemas import (
    Contains,
    Exact,
    JsonMatch,
    Label,
    Numeric,
    Options,
    Overlap,
    Regex,
)

Array = Any  # numpy's, which mypy does not look into
WIDTHS = {"bleu": 10, "perplexity": 2}  # of what sums up, where that is not value and count
LOWER_IS_BETTER = ("perplexity",)
UNBOUNDED = ("perplexity",)  # all others lie between 0 and 1


@dataclass(frozen=True)
class Scored:
    """`value` is None where the row asks nothing of this scorer. `parts` sum up where the figure
    of many answers is more than the mean of their values.
    """

    value: float | None
    parts: list[float] | None = None
    said: str | None = None  # the label that the answer named


def score(scorer: Options, answer: str, reference: str) -> Scored:
    """`scorer` has its labels by now (see `settled`)."""
    match scorer:
        case Exact():
            return Scored(
                rules.exact(answer, reference, case=scorer.case, punctuation=scorer.punctuation)
            )
        case Contains():
            texts = scorer.texts or [reference]
            return Scored(rules.contains(answer, texts, every=scorer.every, case=scorer.case))
        case Regex():
            return Scored(
                rules.regex(
                    answer,
                    reference,
                    text=scorer.pattern,
                    case=scorer.case,
                    compare=scorer.compare,
                )
            )
        case Numeric():
            return Scored(
                rules.numeric(
                    answer,
                    reference,
                    absolute=scorer.absolute,
                    relative=scorer.relative,
                    last=scorer.which == "last",
                )
            )
        case JsonMatch():
            return Scored(
                rules.json_match(answer, reference, schema=scorer.schema_text, fields=scorer.fields)
            )
        case Label():
            said = labels.label_of(answer, scorer.labels, last=scorer.last)
            wanted = labels.label_of(reference, scorer.labels)
            return Scored(float(said == wanted and said != labels.NONE), said=said)
        case Overlap(kind="token_f1"):
            return Scored(overlap.token_f1(answer, reference))
        case Overlap(kind="chrf"):
            return Scored(overlap.chrf(answer, reference))
        case Overlap(kind="bleu"):
            value, parts = overlap.bleu(answer, reference)
            return Scored(value, parts)
        case Overlap():
            return Scored(overlap.rouge(answer, reference, scorer.kind))
    raise ValueError(scorer)


# -- figures of many ---------------------------------------------------------------------


def summed(kind: str, values: Sequence[float], parts: Sequence[Any]) -> Array:
    """What adds up over rows, (rows, d): `figure` makes one number of any sum of these."""
    if len(values) == 0 and len(parts) == 0:
        return np.zeros((0, WIDTHS.get(kind, 2)))
    if kind in WIDTHS:
        return np.asarray(parts, dtype=np.float64).reshape(len(parts), -1)
    each = np.asarray(values, dtype=np.float64)
    return np.stack([each, np.ones_like(each)], axis=-1)


def figure(kind: str, sums: Array) -> Array:
    """The figures (…) of sums (…, d): BLEU of the whole, macro F1, perplexity, else the mean."""
    sums = np.asarray(sums, dtype=np.float64)
    if kind == "bleu":
        return overlap.corpus_bleu(sums)
    if kind == "f1":
        size = round(sums.shape[-1] ** 0.5)
        return labels.macro_f1(sums.reshape(*sums.shape[:-1], size, size))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nan_to_num(sums[..., 0] / sums[..., 1])
    return np.exp(mean) if kind == "perplexity" else mean


def one_hot(wanted: Sequence[str], said: Sequence[str], names: Sequence[str]) -> Array:
    """The cell of the confusion table that each row is in, (rows, (labels + 1)²)."""
    size = len(names) + 1
    place = {name: at for at, name in enumerate(names)}
    cells = [
        place.get(one, size - 1) * size + place.get(other, size - 1)
        for one, other in zip(wanted, said, strict=True)
    ]
    found = np.zeros((len(cells), size * size))
    found[np.arange(len(cells)), cells] = 1
    return found
