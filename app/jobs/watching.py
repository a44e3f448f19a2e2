"""What one looks at while a job runs: the verdict on its curve, its sample answers, its log."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs import history, verdict
from app.jobs.tables import Job, JobEvent, JobMetric

POINTS = 2000  # of a curve that is judged; of a longer one, the means of so many pieces
MATCHES = 200  # lines of the log that a search shows
MOST_LINE = 1000  # characters of one
PROMPTS = 20


# -- the curve -----------------------------------------------------------------------------


def judged(db: Session, job: Job) -> verdict.Verdict | None:
    """None for a job without a curve."""
    if job.stage in ("merge", "export", "evaluate"):
        return None
    return verdict.judge(curve(db, job.id), job.total)


def curve(db: Session, job_id: str) -> list[dict[str, Any]]:
    """[{step, loss, eval_loss?}], by step. A loss that is no number is None."""
    of_job = JobMetric.job_id == job_id
    loss, worse = JobMetric.data["loss"], JobMetric.data["eval_loss"]
    count = db.scalar(select(func.count()).where(of_job, JobMetric.data.has_key("loss"))) or 0
    size = count // POINTS + 1
    if size == 1:
        query = select(JobMetric.step, loss).where(of_job, JobMetric.data.has_key("loss"))
    else:
        piece = JobMetric.step // size
        query = (
            select(func.min(JobMetric.step), func.avg(loss.as_float()))
            .where(of_job, JobMetric.data.has_key("loss"))
            .group_by(piece)
        )
    rows: dict[int, dict[str, Any]] = {
        step: {"step": step, "loss": value} for step, value in db.execute(query)
    }
    for step, value in db.execute(
        select(JobMetric.step, worse).where(of_job, JobMetric.data.has_key("eval_loss"))
    ):
        rows.setdefault(step, {"step": step})["eval_loss"] = value
    return [rows[step] for step in sorted(rows)]


# -- samples -------------------------------------------------------------------------------


def samples(db: Session, job_id: str) -> list[dict[str, Any]]:
    """Per prompt, in the order of the job's settings: {prompt, base, answers: [{step, tuned}]}, the
    newest answer first. Steps that were taken again are there once, as the last attempt had them.
    """
    found: dict[str, dict[str, Any]] = {}
    answers: dict[tuple[str, int], str] = {}
    for event in db.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.kind == "sample")
        .order_by(JobEvent.id)
    ):
        said = event.params
        prompt, step = str(said.get("prompt") or ""), said.get("step")
        if not isinstance(step, int) or (prompt not in found and len(found) == PROMPTS):
            continue
        one = found.setdefault(prompt, {"prompt": prompt, "base": None, "answers": []})
        if said.get("base") is not None:
            one["base"] = str(said["base"])
        answers[prompt, step] = str(said.get("tuned") or "")
    for (prompt, step), tuned in sorted(answers.items(), key=lambda item: -item[0][1]):
        found[prompt]["answers"].append({"step": step, "tuned": tuned})
    return list(found.values())


# -- the log -------------------------------------------------------------------------------


def lines(db: Session, job: Job, *, final: bool) -> Iterator[str]:
    """Of all attempts, fit for any screen."""
    fence, offset, more, rest = 0, 0, True, ""
    while more:
        piece = history.log_after(db, job.id, fence, offset, final=final)
        fence, offset, more = piece.fence, piece.offset, piece.more
        *whole, rest = (rest + piece.text).split("\n")
        yield from whole
    if rest:
        yield rest


def search(db: Session, job: Job, wanted: str, *, final: bool) -> tuple[list[dict[str, Any]], int]:
    """As `matching`, in the log of all attempts."""
    return matching(lines(db, job, final=final), wanted)


def matching(lines: Iterable[str], wanted: str) -> tuple[list[dict[str, Any]], int]:
    """The last lines that contain `wanted`, whatever its case, as {number, parts}, and how many
    there are. Every second part is a match.
    """
    key = wanted.casefold()
    found: list[tuple[int, str]] = []
    count = 0
    for number, line in enumerate(lines, start=1):
        if key in line.casefold():
            count += 1
            found.append((number, line[:MOST_LINE]))
            del found[:-MATCHES]
    return [{"number": number, "parts": parts(line, key)} for number, line in found], count


def parts(line: str, key: str) -> list[str]:
    """`line` cut at each match. Where folding changes the length, it is not cut at all."""
    folded = line.casefold()
    if len(folded) != len(line):
        return [line]
    found, at = [], 0
    while (place := folded.find(key, at)) >= 0:
        found += [line[at:place], line[place : place + len(key)]]
        at = place + len(key)
    return [*found, line[at:]]
