"""What the estimate, the verdict, the samples and the comparison answer."""

from collections.abc import Callable, Sequence
from typing import Any, Self

from pydantic import BaseModel

from app.jobs.comparing import Difference
from app.jobs.forecast import Forecast
from app.jobs.tables import Job
from app.jobs.verdict import Verdict

Say = Callable[[str, dict[str, Any]], str]


class PartOut(BaseModel):
    """A part of a figure, in bytes."""

    name: str
    bytes: int
    calculation: str


class FigureOut(BaseModel):
    """`measured` false: an estimate. `value` null: nobody knows, and `calculation` says why."""

    name: str
    value: float | None
    unit: str
    measured: bool
    calculation: str
    parts: list[PartOut]


class FixOut(BaseModel):
    """`changes`: field → value, all of them together. `memory`: bytes on each device then."""

    changes: dict[str, Any]
    memory: int


class FitOut(BaseModel):
    """`when`: now, later, never or unknown. `fixes`: changes that would make it fit."""

    when: str
    message: str
    fixes: list[FixOut]


class RefusalOut(BaseModel):
    """Why a job would be refused."""

    code: str
    message: str
    field: str | None


class EstimateOut(BaseModel):
    """What will happen if a job is started."""

    figures: list[FigureOut]
    fit: FitOut
    refused: RefusalOut | None
    measuring: float | None

    @classmethod
    def of(cls, found: Forecast, say: Say) -> Self:
        refusal = found.refusal
        return cls(
            figures=[
                FigureOut(
                    name=line.name,
                    value=line.value,
                    unit=line.unit,
                    measured=line.measured,
                    calculation=say(line.words, line.params),
                    parts=[
                        PartOut(
                            name=part.name,
                            bytes=part.bytes,
                            calculation=say(part.words, part.params),
                        )
                        for part in line.parts
                    ],
                )
                for line in found.lines
            ],
            fit=FitOut(
                when=found.fit.when,
                message=say(found.fit.words, found.fit.params),
                fixes=[FixOut(changes=fix.changes, memory=fix.need) for fix in found.fit.fixes],
            ),
            refused=refusal
            and RefusalOut(
                code=refusal.code,
                message=say(refusal.message, refusal.params),
                field=refusal.field,
            ),
            measuring=found.measuring,
        )


class VerdictOut(BaseModel):
    """`code`: early, converging, recovered, diverging, overfitting or not_learning; none for a job
    that has no curve. `step` is where it shows.
    """

    code: str
    title: str
    advice: str
    step: int | None

    @classmethod
    def of(cls, found: Verdict | None, say: Say) -> Self:
        if found is None:
            return cls(code="none", title="", advice="", step=None)
        return cls(
            code=found.code,
            title=say(found.title, found.params),
            advice=say(found.advice, found.params),
            step=found.step,
        )


class LoadsOut(BaseModel):
    """[{t, devices: {name: {use (percent), memory (bytes)}}}], in order."""

    data: list[dict[str, Any]]
    has_more: bool = False


class SamplesOut(BaseModel):
    """[{prompt, base, answers: [{step, tuned}]}], the newest answer first."""

    data: list[dict[str, Any]]
    has_more: bool = False


class WebhookKeyOut(BaseModel):
    """What the webhooks of a workspace are signed with."""

    key: str


class DifferenceOut(BaseModel):
    """One setting or figure of each job."""

    group: str
    name: str
    title: str
    values: list[Any]
    same: bool


class ComparisonOut(BaseModel):
    """What differs between jobs: one value per job, in the order of `jobs`."""

    jobs: list[str]
    data: list[DifferenceOut]

    @classmethod
    def of(cls, jobs: Sequence[Job], table: list[Difference], say: Say) -> Self:
        lines = [
            DifferenceOut(
                group=one.group,
                name=one.name,
                title=say(one.title, {}),
                values=one.values,
                same=one.same,
            )
            for one in table
        ]
        return cls(jobs=[job.id for job in jobs], data=lines)
