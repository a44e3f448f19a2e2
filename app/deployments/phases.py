"""The steps of an engine's start: which are done, how long each took, how long it may yet take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.deployments.tables import Replica

PHASES = ("fetch", "start", "load", "compile", "warm", "check")


@dataclass(frozen=True)
class Step:
    """`seconds` it took or has taken so far, `before` what it took last time; None if unknown."""

    phase: str
    state: str  # done, now or ahead
    seconds: float | None
    before: float | None
    progress: int | None  # percent, of the one that is under way


def took(began: Mapping[str, str], end: datetime) -> dict[str, float]:
    """Seconds of each phase of a start that reached its end, by when each began."""
    starts = sorted((datetime.fromisoformat(at), phase) for phase, at in began.items())
    ends = [*(at for at, _ in starts), end][1:]
    return {
        phase: round((after - at).total_seconds(), 1)
        for (at, phase), after in zip(starts, ends, strict=True)
    }


def last_time(replica: Replica, siblings: Sequence[Replica]) -> dict[str, float]:
    """What the phases took in the last good start: of this replica, or else of one like it."""
    if replica.took:
        return replica.took
    known = [one for one in siblings if one.took]
    return max(known, key=lambda one: (one.revision, one.fence)).took if known else {}


def steps(replica: Replica, before: Mapping[str, float], at: datetime) -> list[Step]:
    """The start of `replica` as it stands at a moment. Phases that an engine leaves out do not
    appear once they are passed.
    """
    reached = PHASES.index(replica.phase) if replica.phase in PHASES else 0
    done = took(replica.phases, at)
    found = []
    for index, phase in enumerate(PHASES):
        state = "done" if index < reached else "now" if index == reached else "ahead"
        if (
            phase in done
            or state == "now"
            or (state == "ahead" and (phase in before or not before))
        ):
            progress = replica.progress if state == "now" else None
            seconds = done.get(phase)
            found.append(Step(phase, state, seconds, before.get(phase), progress))
    return found


def share_done(found: Sequence[Step]) -> int | None:
    """Percent of the whole start, measured by what the phases took last time; below 100."""
    total = sum(step.before or 0.0 for step in found)
    if not total:
        return None
    done = 0.0
    for step in found:
        usual = step.before or 0.0
        if step.state == "done":
            done += usual
        elif step.state == "now":
            done += min(step.seconds or 0.0, usual)
    return min(99, round(100 * done / total))


def left(found: Sequence[Step]) -> float | None:
    """Seconds until it is ready if all goes as last time; None before it has ever been."""
    if not any(step.before for step in found):
        return None
    ahead = [step for step in found if step.state != "done"]
    return sum(max(0.0, (step.before or 0.0) - (step.seconds or 0.0)) for step in ahead)


def summary(times: Mapping[str, Any]) -> float:
    """Seconds of a whole start."""
    return float(round(sum(times.values()), 1))
