"""What the verdict stands on."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import bootstrap

from app.evaluations.bootstrap import compare, interval
from app.evaluations.scorers import scoring

MEAN = partial(scoring.figure, "mean")


def rows(values):
    return scoring.summed("mean", values, [])


def test_a_clear_gain_a_loss_and_none():
    rng = np.random.default_rng(1)
    base = (rng.random(400) < 0.6).astype(float)
    better = np.maximum(base, (rng.random(400) < 0.4).astype(float))
    found = compare(MEAN, rows(better), rows(base))
    assert (found.verdict, found.rows) == ("better", 400)
    assert found.low <= found.difference <= found.high
    assert found.low > 0
    assert found.p < 0.01
    assert compare(MEAN, rows(base), rows(better)).verdict == "worse"
    assert compare(MEAN, rows(base), rows(better), lower=True).verdict == "better"
    again = compare(MEAN, rows(base), rows(base))
    assert (again.verdict, again.difference, again.p) == ("same", 0, 1)


def test_the_interval_is_that_of_scipy():
    rng = np.random.default_rng(2)
    one, other = rng.random(200), rng.random(200)
    found = compare(MEAN, rows(one), rows(other))
    expected = bootstrap(
        (one - other,), np.mean, method="percentile", n_resamples=20_000, rng=5
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.004)
    assert found.high == pytest.approx(expected.high, abs=0.004)
    low, high = interval(MEAN, rows(one))
    assert low < one.mean() < high


def test_the_same_seed_gives_the_same():
    one, other = rows(np.arange(30) / 30), rows(np.arange(30)[::-1] / 29)
    assert compare(MEAN, one, other) == compare(MEAN, one, other)


def test_few_rows_say_nothing():
    assert compare(MEAN, rows([1.0, 1.0]), rows([0.0, 0.0])).verdict == "few"
    assert compare(MEAN, rows([]), rows([])).verdict == "few"


def test_figures_of_a_whole_are_resampled_as_wholes():
    wanted = ["a", "b"] * 60
    good = scoring.one_hot(wanted, wanted, ["a", "b"])
    bad = scoring.one_hot(wanted, ["a"] * 120, ["a", "b"])
    found = compare(partial(scoring.figure, "f1"), good, bad)
    assert found.verdict == "better"
    assert found.value == 1
    assert found.baseline == pytest.approx(1 / 3)
