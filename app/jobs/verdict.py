"""What a loss curve says so far, in one word, with advice. Pure: numbers in, a verdict out.

Everything is measured against the curve's own noise. The losses are cut into blocks, of which the
median is the level; the noise is the median distance of a loss from the level of its block, and
what a level may be off by chance follows from it. So a curve of 30 steps and one of 30,000 are
judged by the same rules, and one odd batch changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from app.errors import N_

FEWEST = 20  # steps before anything is said
BLOCKS = 40
SHORTEST = 5  # steps of a block
NARROW = 5  # steps of the running median that spikes are looked for in: two odd batches vanish
TO_SIGMA = 1.4826  # from the median distance to a standard deviation

EARLY, CONVERGING, RECOVERED = "early", "converging", "recovered"
DIVERGING, OVERFITTING, IDLE = "diverging", "overfitting", "not_learning"


@dataclass(frozen=True)
class Verdict:
    """`code` is stable; `title` and `advice` are msgids that `params` fill."""

    code: str
    title: str
    advice: str
    params: dict[str, Any] = field(default_factory=dict)
    step: int | None = None  # where it shows


@dataclass(frozen=True)
class Curve:
    """The levels of a curve, and what they may be off by chance."""

    steps: list[int]  # the first of each block
    levels: list[float]
    noise: float  # of one step
    chance: float  # three standard errors of a level

    @classmethod
    def of(cls, steps: Sequence[int], losses: Sequence[float]) -> "Curve":
        size = max(SHORTEST, math.ceil(len(losses) / BLOCKS))
        starts = list(range(0, len(losses) - size + 1, size))
        blocks = [losses[at : at + size] for at in starts[:-1]]
        blocks.append(losses[starts[-1] :])  # what is left over belongs to the last
        levels = [median(block) for block in blocks]
        distances = [
            abs(loss - level) for level, block in zip(levels, blocks, strict=True) for loss in block
        ]
        noise = TO_SIGMA * median(distances)
        return cls([steps[at] for at in starts], levels, noise, 3 * 1.25 * noise / math.sqrt(size))

    @property
    def start(self) -> float:
        return self.levels[0]

    @property
    def end(self) -> float:
        return median(self.levels[-max(1, len(self.levels) // 10) :])

    @property
    def best(self) -> float:
        return min(self.levels)


def judge(rows: Sequence[Mapping[str, Any]], total: int) -> Verdict:
    """Of the metrics so far, by step: {step, loss?, eval_loss?}; `total` steps are planned."""
    seen = [(int(row["step"]), row["loss"]) for row in rows if "loss" in row]
    for step, loss in seen:
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            return diverging(step)
    steps, losses = [step for step, _ in seen], [float(loss) for _, loss in seen]
    if len(losses) < FEWEST:
        return Verdict(
            EARLY,
            N_("Too early to say"),
            N_("A curve says little before %(fewest)s steps."),
            {"fewest": FEWEST},
        )
    curve = Curve.of(steps, losses)
    slack = max(curve.chance, 0.01 * abs(curve.start))
    if (since := gone(curve, slack)) is not None:
        return diverging(since)
    evaluations = [(int(row["step"]), row["eval_loss"]) for row in rows if row.get("eval_loss")]
    if (best := overfits(evaluations, curve)) is not None:
        return Verdict(
            OVERFITTING,
            N_("Overfitting since step %(step)s"),
            N_(
                "The validation loss was best at step %(step)s (%(best)s) and has risen to"
                " %(last)s, while the training loss went on falling: the model learns the rows by"
                " heart. Keep the checkpoint nearest to step %(step)s. Next time take fewer epochs,"
                " more data, a smaller LoRA rank, or some dropout."
            ),
            {"step": best[0], "best": f"{best[1]:.4g}", "last": f"{evaluations[-1][1]:.4g}"},
            best[0],
        )
    fallen = curve.start - curve.end
    if fallen <= max(slack, 0.02 * abs(curve.start)):
        return idle(curve, losses, steps[-1], total)
    if spike := spiked(curve, steps, losses, slack):
        return Verdict(
            RECOVERED,
            N_("Recovered from a spike at step %(step)s"),
            N_(
                "The loss jumped to %(height)s at step %(step)s and came back. Once does no harm."
                " If it happens again, lower the learning rate or the maximum gradient norm, or"
                " look at the rows of that step."
            ),
            {"step": spike[0], "height": f"{spike[1]:.4g}"},
            spike[0],
        )
    return converging(curve, fallen)


# -- what can be seen ----------------------------------------------------------------------


def gone(curve: Curve, slack: float) -> int | None:
    """Since which step the loss has left, and not come back; None if it has not.

    Left is: above where it began at the end; back up by half of what it had fallen at the end; or
    so unsteady that most of the last quarter is back up by a third.
    """
    fallen = curve.start - curve.best
    few, many = max(2, len(curve.levels) // 10), max(3, len(curve.levels) // 4)
    limits = [(few, 0.0, curve.start + max(slack, 0.1 * curve.start))]
    if fallen > 2 * slack:
        limits += [
            (few, 0.0, curve.best + max(0.5 * fallen, 2 * slack)),
            (many, 0.5, curve.best + fallen / 3 + slack),
        ]
    for last, share, limit in limits:
        tail = sorted(curve.levels[-last:])
        if tail[int(share * last)] > limit and curve.best not in tail:
            lowest = curve.levels.index(curve.best)
            after = zip(curve.steps[lowest:], curve.levels[lowest:], strict=True)
            return next(step for step, level in after if level > limit)
    return None


def overfits(evaluations: Sequence[tuple[int, float]], curve: Curve) -> tuple[int, float] | None:
    """(step, loss) of the best evaluation, if the two last ones are clearly worse, and the
    training loss has not risen since.
    """
    if len(evaluations) < 3:
        return None
    best = min(evaluations, key=lambda one: one[1])
    after = [loss for step, loss in evaluations if step > best[0]]
    if len(after) < 2 or min(after[-2:]) <= best[1] * 1.01 or after[-1] <= best[1] * 1.02:
        return None
    then = [level for step, level in zip(curve.steps, curve.levels, strict=True) if step <= best[0]]
    return best if curve.end <= then[-1] + curve.chance else None


def spiked(
    curve: Curve, steps: Sequence[int], losses: Sequence[float], slack: float
) -> tuple[int, float] | None:
    """(step, height) of the highest spike after the beginning; None without one."""
    running = [median(losses[at : at + NARROW]) for at in range(len(losses) - NARROW + 1)]
    tall = max(6 * curve.noise, 0.25 * (curve.start - curve.best), 2 * slack)
    found: tuple[float, int] | None = None
    lowest = math.inf
    for at, level in enumerate(running):
        if at >= max(NARROW, len(running) // 10) and level > lowest + tall:
            found = max(found or (0.0, 0), (level, at))
        lowest = min(lowest, level)
    if found is None:
        return None
    place = found[1] + NARROW // 2
    return steps[place], found[0]


# -- what to say ---------------------------------------------------------------------------


def diverging(step: int) -> Verdict:
    return Verdict(
        DIVERGING,
        N_("Diverging since step %(step)s"),
        N_(
            "The loss went up and does not come back. Stop, and start again from before with a"
            " third of the learning rate, a longer warm-up or a smaller maximum gradient norm."
        ),
        {"step": step},
        step,
    )


def idle(curve: Curve, losses: Sequence[float], last: int, total: int) -> Verdict:
    if len(losses) < 5 * FEWEST and total and last < total / 4:
        return Verdict(
            EARLY,
            N_("Too early to say"),
            N_("The loss has not moved beyond its noise yet. A quarter of the steps will tell."),
        )
    if curve.end < 0.05:
        return Verdict(
            IDLE,
            N_("Nothing left to learn"),
            N_(
                "The loss was next to nothing from the start: the model knows these answers"
                " already. Is this the right data, and the right model to start from?"
            ),
        )
    return Verdict(
        IDLE,
        N_("Not learning"),
        N_(
            "After %(steps)s steps the loss has not fallen beyond its noise. Raise the learning"
            " rate (three times is a good next try), raise the LoRA rank, and look at a row as the"
            " model sees it: are the answers what carries the loss?"
        ),
        {"steps": len(losses)},
    )


def converging(curve: Curve, fallen: float) -> Verdict:
    quarter = curve.levels[-max(2, len(curve.levels) // 4) :]
    half = len(quarter) // 2
    late = median(quarter[:half]) - median(quarter[half:])
    params = {"start": f"{curve.start:.4g}", "end": f"{curve.end:.4g}"}
    if late > max(curve.chance / 2, 0.02 * fallen):
        advice = N_(
            "The loss fell from %(start)s to %(end)s and is still falling. If it does so at the"
            " end too, another epoch will most likely help."
        )
    else:
        advice = N_(
            "The loss fell from %(start)s to %(end)s and has settled. More steps of the same will"
            " change little; other data will."
        )
    return Verdict(CONVERGING, N_("Converging"), advice, params)
