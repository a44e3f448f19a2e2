"""How much of a text stands in another: token F1, ROUGE, BLEU, chrF. All from 0 to 1."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from app.evaluations.scorers.texts import LONGEST, answer_words, is_chinese, segments, words

ORDER = 4  # of BLEU's n-grams
Array = Any  # numpy's, which mypy does not look into


def f_measure(same: float, said: int, wanted: int) -> float:
    """Of precision and recall; 0 where nothing is the same."""
    return 2 * same / (said + wanted) if same else 0.0


def token_f1(answer: str, reference: str) -> float:
    """As SQuAD has it (Rajpurkar et al. 2016); two empty texts are the same."""
    chinese = is_chinese(reference) or is_chinese(answer)
    said = answer_words(answer[:LONGEST], chinese=chinese)
    wanted = answer_words(reference[:LONGEST], chinese=chinese)
    if not said or not wanted:
        return float(said == wanted)
    same = (Counter(said) & Counter(wanted)).total()
    return f_measure(same, len(said), len(wanted))


# -- ROUGE (Lin 2004), as rouge-score computes it, without a stemmer -----------------------


def grams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1))


def rouge(answer: str, reference: str, kind: str) -> float:
    """The F-measure of `rouge1`, `rouge2` or `rougeL`."""
    chinese = is_chinese(reference) or is_chinese(answer)
    said, wanted = words(answer, chinese=chinese), words(reference, chinese=chinese)
    if kind == "rougeL":
        return f_measure(common(said, wanted), len(said), len(wanted))
    size = int(kind.removeprefix("rouge"))
    one, other = grams(said, size), grams(wanted, size)
    return f_measure((one & other).total(), one.total(), other.total())


def common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, a row at a time as the bits of one number
    (Hyyrö 2004).
    """
    places: dict[Hashable, int] = {}
    for at, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << at
    full = (1 << len(one)) - 1
    row = full
    for token in other:
        found = row & places.get(token, 0)
        row = (row + found | row - found) & full
    return len(one) - row.bit_count()


# -- BLEU (Papineni et al. 2002) and chrF (Popović 2015), by sacrebleu ----------------------


@lru_cache(maxsize=2)
def bleu_metric(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenize, effective_order=True)


@lru_cache(maxsize=1)
def chrf_metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def bleu(answer: str, reference: str) -> tuple[float, list[float]]:
    """Of one answer, and what of it sums up to the BLEU of many: lengths of the answer and of the
    reference, n-grams of each order that are right, n-grams of each order.
    """
    answer, reference = answer[:LONGEST], reference[:LONGEST]
    if is_chinese(reference) or is_chinese(answer):
        metric = bleu_metric("none")
        answer, reference = " ".join(segments(answer)), " ".join(segments(reference))
    else:
        metric = bleu_metric("13a")
    found = metric.sentence_score(answer, [reference])
    return found.score / 100, [found.sys_len, found.ref_len, *found.counts, *found.totals]


def corpus_bleu(sums: Array) -> Array:
    """BLEU of the sums (…, 10) of what `bleu` tells, as sacrebleu has it (smoothing “exp”)."""
    sums = np.asarray(sums, dtype=np.float64)
    said, wanted = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    missed = (right == 0) & (total > 0)
    smooth = 2.0 ** np.cumsum(missed, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(missed, 1 / (smooth * total), right / total)
        mean = np.exp(np.log(share).mean(axis=-1))
        brevity = np.where(said < wanted, np.exp(1 - wanted / said), 1.0)
        found = brevity * mean
    return np.where((total > 0).all(axis=-1) & (right.sum(axis=-1) > 0), found, 0.0)


def chrf(answer: str, reference: str) -> float:
    """F2 of character 1- to 6-grams."""
    found = chrf_metric().sentence_score(answer[:LONGEST], [reference[:LONGEST]]).score / 100
    return 0.0 if math.isnan(found) else float(found)
