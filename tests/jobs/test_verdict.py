"""Verdicts on curves: on generated ones, whose shape is known, and on curves of real runs.

The files in `curves/` are the losses of runs of the train stage on the small model of the stages'
tests: `unstable` is a learning rate of 0.3, which jumps, comes back, and is lost in the end.
"""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.jobs.verdict import judge

Rows = list[dict[str, Any]]


def drawn(shape: Callable[[float], float], steps: int, noise: float, seed: int) -> Rows:
    chance = random.Random(seed)
    return [
        {"step": step + 1, "loss": shape(step / steps) + chance.gauss(0, noise)}
        for step in range(steps)
    ]


def falling(x: float) -> float:
    return 0.5 + 2 * math.exp(-4 * x)


SHAPES = {
    "converging": falling,
    "recovered": lambda x: falling(x) + 3 * math.exp(-(((x - 0.5) / 0.03) ** 2)),
    "diverging": lambda x: falling(x) if x < 0.6 else 0.7 + 6 * (x - 0.6),
    "not_learning": lambda x: 2.3,
}


@pytest.mark.parametrize("code", SHAPES)
@pytest.mark.parametrize("steps", [100, 400, 3000])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_a_shape_is_known_whatever_its_length_and_noise(code: str, steps: int, noise: float):
    for seed in range(5):
        assert judge(drawn(SHAPES[code], steps, noise, seed), steps).code == code


def test_where_it_happened():
    spike = judge(drawn(SHAPES["recovered"], 400, 0.05, 1), 400)
    assert spike.step is not None
    assert abs(spike.step - 200) < 10
    lost = judge(drawn(SHAPES["diverging"], 400, 0.05, 1), 400)
    assert lost.step is not None
    assert 240 <= lost.step < 330


def test_validation_that_rises_while_training_falls():
    rows = drawn(falling, 300, 0.05, 1)
    for row in rows:
        if row["step"] % 30 == 0:
            row["eval_loss"] = 1.0 + abs(row["step"] - 120) / 300
    found = judge(rows, 300)
    assert (found.code, found.step) == ("overfitting", 120)
    for row in rows:  # one evaluation above the best is chance
        if row["step"] > 150:
            row.pop("eval_loss", None)
    assert judge(rows, 300).code == "converging"


def test_early_and_odd_curves():
    assert judge([], 0).code == "early"
    assert judge(drawn(falling, 19, 0.01, 1), 19).code == "early"
    flat = drawn(lambda x: 2.3, 40, 0.1, 1)
    assert judge(flat, 1000).code == "early"
    assert judge(flat, 40).code == "not_learning"
    lost = [*drawn(falling, 30, 0.01, 1), {"step": 31, "loss": math.nan}]
    assert (judge(lost, 100).code, judge(lost, 100).step) == ("diverging", 31)
    odd = drawn(falling, 400, 0.05, 1)
    odd[250]["loss"] = 40.0  # one hard row
    assert judge(odd, 400).code == "converging"
    assert judge([{"step": 1, "eval_loss": 2.0}], 10).code == "early"


def test_what_it_says_fits_its_params():
    for name, shape in SHAPES.items():
        found = judge(drawn(shape, 200, 0.05, 1), 200)
        assert found.title % found.params, name
        assert found.advice % found.params, name


def curve(name: str) -> Rows:
    return json.loads((Path(__file__).parent / "curves" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["converging", "not_learning", "overfitting", "diverging"])
def test_curves_of_real_runs(name: str):
    rows = curve(name)
    assert judge(rows, len(rows)).code == name


def test_a_real_spike_that_comes_back_and_then_does_not():
    rows = curve("unstable")
    assert judge(rows[:72], 150).code == "recovered"
    assert judge(rows, 150).code == "diverging"
