"""Answers that name one of a few labels: which it is, and how often that is right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.evaluations.scorers.texts import normalised

NONE = ""  # an answer that names no label, or several
Array = Any


def label_of(answer: str, labels: Sequence[str], *, last: bool = False) -> str:
    """The label that the answer is, else the only one that stands in it; with `last`, the one
    that is named last, as of an answer that first thinks aloud.
    """
    text = normalised(answer)
    by_form = {normalised(label): label for label in labels}
    if text in by_form:
        return by_form[text]
    free, found = text, []
    for form in sorted(by_form, key=len, reverse=True):  # “not good” before “good”
        while form and (at := free.rfind(form)) >= 0:
            found.append((at, by_form[form]))
            free = free[:at] + "\0" * len(form) + free[at + len(form) :]
    named = {label for _, label in found}
    if len(named) == 1 or (last and found):
        return max(found)[1]
    return NONE


def confusion(wanted: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> Array:
    """Counts (labels + 1, labels + 1): row, what it should be; column, what was said. The last
    of each stands for what is none of the labels.
    """
    place = {label: at for at, label in enumerate(labels)}
    size = len(labels) + 1
    rows = np.fromiter((place.get(one, size - 1) for one in wanted), dtype=np.int64)
    columns = np.fromiter((place.get(one, size - 1) for one in said), dtype=np.int64)
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def rates(table: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each label of confusion tables (…, labels + 1, labels + 1)."""
    table = np.asarray(table, dtype=np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)[..., :-1]
    said, wanted = table.sum(axis=-2)[..., :-1], table.sum(axis=-1)[..., :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(said > 0, right / said, 0.0)
        recall = np.where(wanted > 0, right / wanted, 0.0)
        both = np.where(said + wanted > 0, 2 * right / (said + wanted), 0.0)
    return precision, recall, both


def macro_f1(table: Array) -> Array:
    """The mean F1 of the labels that occur, each counting the same; as scikit-learn has it."""
    table = np.asarray(table, dtype=np.float64)
    *_, each = rates(table)
    there = (table.sum(axis=-2) + table.sum(axis=-1))[..., :-1] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(there, each, 0).sum(axis=-1) / there.sum(axis=-1)
    return np.nan_to_num(found)
