"""What finished jobs teach the next estimate.

An estimate keeps the bare result of its formulas (`raw`). A finished job stands beside what was
measured. The correction is the median of measured / raw over the last 20 jobs that are alike: of the
same base model, method and kind of device; where there are none, of the same method and device;
then of the same kind of device. Of memory only those count whose rows were counted before: the
longest row decides it. It is never less than 1/20 nor more than 20.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.tables import Job

LAST = 20  # jobs
BOUND = 20.0
ALIKE = (("base", "method", "device"), ("method", "device"), ("kind",))
FEWEST = (1, 2, 3)  # jobs that a level of likeness needs


@dataclass(frozen=True)
class Correction:
    ratio: float = 1.0
    jobs: int = 0  # that it was learnt from
    alike: str = ""  # in what they are: base, method or kind


def corrections(db: Session, like: dict[str, str]) -> dict[str, Correction]:
    """For `peak_memory` and `tokens_per_second`; `like` is {base, method, device, kind}."""
    return {name: correction(db, like, name) for name in ("peak_memory", "tokens_per_second")}


def correction(db: Session, like: dict[str, str], name: str) -> Correction:
    for names, fewest in zip(ALIKE, FEWEST, strict=True):
        query = (
            select(Job.estimate, Job.outcome)
            .where(
                Job.state == "succeeded",
                Job.estimate.has_key("raw"),
                Job.outcome.has_key(name),
                *([Job.estimate["counted"].as_boolean()] if name == "peak_memory" else ()),
                *(Job.estimate[one].astext == like[one] for one in names),
            )
            .order_by(Job.finished_at.desc())
            .limit(LAST)
        )
        ratios = [
            ratio
            for before, after in db.execute(query)
            if (ratio := ratio_of(before, after, name)) is not None
        ]
        if len(ratios) >= fewest:
            found = min(BOUND, max(1 / BOUND, median(ratios)))
            return Correction(found, len(ratios), names[0])
    return Correction()


def ratio_of(
    before: dict[str, Any] | None, after: dict[str, Any] | None, name: str
) -> float | None:
    raw = (before or {}).get("raw", {}).get(name)
    measured = (after or {}).get(name)
    return measured / raw if raw and measured else None
