"""Makes the version that a pipeline leaves of another: in stretches, as validation does.

A stretch reads some megabytes of the parent from the cursor on, stores the rows that stay as a
segment, and reports the others as issues. What was seen of earlier rows lies in a file of this
machine; where it is missing or behind, the rows before the cursor are gone through again, and
nothing of them is written.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog
import zstandard
from sqlalchemy import insert
from sqlalchemy.orm import Session

from app import storage
from app.accounts.auth import Principal
from app.config import settings
from app.datasets import service, work
from app.datasets.cleaning import duplicates
from app.datasets.cleaning.duplicates import Index
from app.datasets.cleaning.filters import Score
from app.datasets.cleaning.operators import OPERATORS
from app.datasets.cleaning.pipeline import Outcome, Pipeline, Runner, check
from app.datasets.drafts import overlay
from app.datasets.files import drop, room
from app.datasets.rows import segments
from app.datasets.states import DRAFT, FAILED, IMPORTING, PUBLISHED, switch
from app.datasets.tables import DatasetIssue, DatasetVersion
from app.db import new_id, now
from app.errors import N_, Conflict, Invalid, NotFound
from app.models import service as models
from app.models.tables import Model
from app.queue import send, transaction

log = structlog.get_logger()

STRETCH_BYTES = 8 * 2**20  # of JSONL: seconds of work
SCORED_SECONDS = 20.0  # of a stretch, where a model reads each row
INLINE_ROWS = 1000  # so many are cleaned while the user waits
ABANDONED = 86400  # seconds after which nobody goes on with an index

Scoring = Callable[[str], AbstractContextManager[Score]]  # from a model's artefact

CANCELLED: dict[str, Any] = {
    "code": "cancelled",
    "message": N_("The cleaning was cancelled."),
    "params": {},
}
CHANGED: dict[str, Any] = {
    "code": "cleaning.draft_changed",
    "message": N_("The draft was edited while it was being cleaned. Start the cleaning again."),
    "params": {},
}
NOTHING_LEFT: dict[str, Any] = {
    "code": "cleaning.nothing_left",
    "message": N_("The pipeline drops every row. Change its cutoffs, and try the preview first."),
    "params": {},
}
NO_MODEL: dict[str, Any] = {
    "code": "cleaning.no_model",
    "message": N_("The model that was to judge the texts is gone."),
    "params": {},
}
DROPPED = N_("Row %(row)s of version %(version)s was left out by “%(operator)s”: %(why)s.")


# -- starting and stopping ---------------------------------------------------------------


def begin(
    who: Principal, dataset_id: str, pipeline: Pipeline, *, which: str = ""
) -> DatasetVersion:
    """A new version made from another by `pipeline`; a small one is a draft when this returns.

    Raises Invalid for a pipeline that cannot run, Conflict for a version that cannot be cleaned.
    """
    pipeline = check(pipeline)
    tidy()
    with transaction() as db:
        dataset = service.own(db, who, dataset_id)
        parent = cleanable(db, who, dataset_id, which)
        total = overlay.of(parent).rows
        scored = check_models(db, who, pipeline)
        added = service.add_version(
            db,
            dataset,
            user_id=who.user_id,
            status=IMPORTING,
            cursor={"at": 0, "total": total, "edition": parent.edition},
            id=new_id("dv"),
            parent_id=parent.id,
            kind=parent.kind,
            format=parent.format,
            file_name=parent.file_name,
            recipe={
                "made": "cleaning",
                "from": parent.id,
                "number": parent.number,
                "pipeline": pipeline.model_dump(),
                "counts": {
                    "rows": total,
                    "changed": 0,
                    "dropped": 0,
                    "steps": [{"changed": 0, "dropped": 0} for _ in pipeline.steps],
                },
            },
        )
        if inline := total <= INLINE_ROWS and not scored:
            added.claimed_at = now()  # by us: the sweep leaves it alone
        else:
            service.nudge(db, added)
    if inline:
        stretch(added)
    with transaction() as db:
        return service.version(db, who.workspace_id, dataset_id, added.id)


def cleanable(db: Session, who: Principal, dataset_id: str, which: str = "") -> DatasetVersion:
    """Raises Conflict for a version that has no rows yet, or none any more."""
    found = service.version(db, who.workspace_id, dataset_id, which)
    if found.status not in (DRAFT, PUBLISHED):
        raise Conflict(
            N_("Version %(number)s has no rows that could be cleaned."),
            code="cleaning.no_rows",
            number=found.number,
        )
    return found


def check_models(db: Session, who: Principal, pipeline: Pipeline) -> bool:
    """Whether a model is to judge. Raises Invalid if it is none that is seen from here."""
    asked = {
        step.params["model"]: f"steps.{at}.params.model"
        for at, step in enumerate(pipeline.steps)
        if step.operator == "check_perplexity"
    }
    for model_id, where in asked.items():
        try:
            found = models.get(db, who.workspace_id, model_id)
        except NotFound:
            found = None
        if found is None or found.kind != "base" or len(asked) > 1:
            raise Invalid(
                N_("Perplexity is judged by one base model; this is none."),
                code="cleaning.model",
                field=where,
            )
    return bool(asked)


def judge_of(db: Session, pipeline: Pipeline) -> str:
    """The artefact of the model that judges, if one does. Raises NotFound if it is gone."""
    for step in pipeline.steps:
        if step.operator == "check_perplexity":
            found = db.get(Model, step.params["model"])
            if found is None or found.deleted_at:
                raise NotFound(NO_MODEL["message"])
            return found.artefact
    return ""


def cancel(who: Principal, dataset_id: str, which: str) -> DatasetVersion:
    """Raises Conflict if the version is not being made by a cleaning."""
    with transaction() as db:
        service.own(db, who, dataset_id)
        one = service.version(db, who.workspace_id, dataset_id, which)
        db.refresh(one, ["status", "recipe"], with_for_update=True)
        if one.status != IMPORTING or one.recipe.get("made") != "cleaning":
            raise Conflict(
                N_("Version %(number)s is not being cleaned."),
                code="cleaning.not_running",
                number=one.number,
            )
        switch(db, one, FAILED, user_id=who.user_id, error=CANCELLED)
        send(db, "workers.clear_dataset", one.dataset_id)
    duplicates.remove(index_path(one.id))
    return one


# -- what was seen -----------------------------------------------------------------------


def index_path(version_id: str) -> Path:
    return settings.cache / "cleaning" / f"{version_id}.sqlite"


def tidy() -> None:
    """Remove the indexes of cleanings that ended elsewhere."""
    for path in settings.cache.glob("cleaning/*.sqlite"):
        try:
            old = path.stat().st_mtime < time.time() - ABANDONED
        except FileNotFoundError:
            continue
        if old:
            duplicates.remove(path)


@contextmanager
def seen(one: DatasetVersion, pipeline: Pipeline) -> Iterator[Index]:
    """The index of a version; a pipeline that looks for no duplicates needs no file."""
    needed = any(OPERATORS[step.operator].group == "dedup" for step in pipeline.steps)
    index = Index(index_path(one.id) if needed else None)
    if not needed:
        index.commit(one.cursor["at"])
    try:
        yield index
    finally:
        index.close()


# -- a stretch ---------------------------------------------------------------------------


@dataclass
class Stretch:
    """What a stretch found."""

    at: int  # rows of the parent that are done with
    bytes: int = 0  # of JSONL that stays
    changed: int = 0  # rows that stay
    steps: list[dict[str, int]] = field(default_factory=list)
    dropped: list[tuple[int, Outcome]] = field(default_factory=list)
    written: segments.Written = field(default_factory=lambda: segments.Written(0, ""))


def clean_version(version_id: str, scoring: Scoring | None = None) -> None:
    """One stretch of a cleaning: the body of the task `workers.clean_dataset`."""
    if one := work.claim(version_id, IMPORTING):
        with work.until_room(one):
            stretch(one, scoring)


def stretch(one: DatasetVersion, scoring: Scoring | None = None) -> None:
    """Clean on from the version's cursor, store what stays, and say so in the database."""
    pipeline = Pipeline.model_validate(one.recipe["pipeline"])
    with transaction() as db:
        parent = db.get(DatasetVersion, one.parent_id)
        try:
            judge = judge_of(db, pipeline)
        except NotFound:
            give_up(one, NO_MODEL)
            return
    if parent is None or parent.edition != one.cursor["edition"]:
        give_up(one, work.LOST if parent is None else CHANGED)
        return
    scored = scoring(judge) if scoring and judge else nullcontext(None)
    with room() as directory:
        try:
            with seen(one, pipeline) as index, scored as score:
                runner = Runner(pipeline, index, score)
                until = time.monotonic() + SCORED_SECONDS if judge else math.inf
                found = clean(one, parent, runner, directory, until)
        except (NotFound, zstandard.ZstdError):
            log.exception("the rows to be cleaned cannot be read", version=one.id)
            give_up(one, work.LOST)
            return
        except FileNotFoundError:
            give_up(one, NO_MODEL)
            return
        written = found.written
        if written.rows:
            storage.move(directory, written.artefact)
    if not apply(one, parent, found) and written.rows:
        drop(written.artefact)


def clean(
    one: DatasetVersion, parent: DatasetVersion, runner: Runner, directory: Path, until: float
) -> Stretch:
    """Read a stretch of `parent`, writing what stays as a segment into `directory`.

    `until` is when at the latest to begin with no further row, on the monotonic clock.
    """
    at, total, index = one.cursor["at"], one.cursor["total"], runner.index
    found = Stretch(at, steps=[{"changed": 0, "dropped": 0} for _ in runner.steps])
    start = known = min(at, index.rows)

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal known
        read = 0
        for number, line in enumerate(overlay.lines(parent, start), start=start):
            late = number > start and time.monotonic() > until
            if read >= STRETCH_BYTES or late or number >= total:
                return
            read += len(line)
            row = orjson.loads(line)
            outcome = runner.apply(number, row)
            known = number + 1
            if number < at:  # it was written before; the index of this machine lacked it
                continue
            found.at = known
            if note(found, number, outcome):
                found.bytes += len(orjson.dumps(row) if outcome.changed else line) + 1
                yield row

    found.written = segments.write(rows(), directory)
    index.commit(known)
    return found


def note(found: Stretch, number: int, outcome: Outcome) -> bool:
    """Count what became of a row; whether it stays."""
    for step in outcome.changed:
        found.steps[step]["changed"] += 1
    if outcome.dropped is not None:
        found.steps[outcome.dropped]["dropped"] += 1
        found.dropped.append((number, outcome))
        return False
    found.changed += bool(outcome.changed)
    return True


def apply(start: DatasetVersion, parent: DatasetVersion, found: Stretch) -> bool:
    """Write what a stretch found. False if somebody else did, or nobody wants it any more."""
    with transaction() as db:
        one = db.get(DatasetVersion, start.id, with_for_update=True)
        if one is None or one.status != IMPORTING or one.cursor != start.cursor:
            return False
        issues = [
            {"version_id": one.id, "number": one.warning_count + at} | issue(one, parent, *dropped)
            for at, dropped in enumerate(found.dropped, start=1)
        ]
        if issues:
            db.execute(insert(DatasetIssue), issues)
        one.warning_count += len(issues)
        if rows := found.written.rows:
            one.segments = [*one.segments, {"artefact": found.written.artefact, "rows": rows}]
            one.rows += rows
        one.bytes += found.bytes
        one.recipe = {**one.recipe, "counts": counted(one.recipe["counts"], found)}
        if found.at < one.cursor["total"]:
            one.cursor = {**one.cursor, "at": found.at}
            one.claimed_at, one.attempts = None, 0
            service.nudge(db, one)
            return True
        if one.rows:
            switch(db, one, DRAFT)
        else:
            switch(db, one, FAILED, error=NOTHING_LEFT)
    duplicates.remove(index_path(one.id))
    return True


def issue(one: DatasetVersion, parent: DatasetVersion, number: int, out: Outcome) -> dict[str, Any]:
    """A dropped row, as a warning: its line is its number in the version it was left out of."""
    step = one.recipe["pipeline"]["steps"][out.dropped or 0]
    operator = OPERATORS[step["operator"]]
    return {
        "level": "warning",
        "line": number + 1,
        "path": "",
        "code": f"cleaning.{operator.name}",
        "message": DROPPED,
        "params": {
            "row": number + 1,
            "version": parent.number,
            "operator": {"message": operator.label, "params": {}},
            "why": out.why,
        },
    }


def counted(counts: dict[str, Any], found: Stretch) -> dict[str, Any]:
    return {
        "rows": counts["rows"],
        "changed": counts["changed"] + found.changed,
        "dropped": counts["dropped"] + len(found.dropped),
        "steps": [
            {name: old[name] + new[name] for name in old}
            for old, new in zip(counts["steps"], found.steps, strict=True)
        ],
    }


def give_up(start: DatasetVersion, error: dict[str, Any]) -> None:
    with transaction() as db:
        one = db.get(DatasetVersion, start.id, with_for_update=True)
        if one is not None and one.status == IMPORTING:
            switch(db, one, FAILED, error=error)
            send(db, "workers.clear_dataset", one.dataset_id)
    duplicates.remove(index_path(start.id))
