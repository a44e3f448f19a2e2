"""Looking for evaluated rows in training data, a stretch at a time, while somebody waits.

The process keeps the last few looks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.datasets import service as datasets
from app.datasets.rows import browse, looking
from app.datasets.tables import DatasetVersion
from app.evaluations import prompts, service
from app.evaluations.contamination import Hit, Index
from app.evaluations.schemas import CandidateIn, Settings
from app.evaluations.tables import Evaluation
from app.jobs.data import parts_of
from app.jobs.tables import Job
from app.models.tables import Model

PAUSE_ROWS = 64  # rows between two looks at the clock
MOST_SOURCES = 50  # dataset versions
LONGEST_LINE = 30  # models, of which each was made from the next
EXCERPT = 300  # characters


@dataclass
class Found(looking.Progress):
    """How far a look has come, and what it has found."""

    rows: int = 0  # that are evaluated
    hits: list[Hit] = field(default_factory=list)
    partial: bool = False  # there were too many words to compare all of them

    @property
    def counts(self) -> dict[str, int]:
        kinds = [one.kind for one in self.hits]
        return {kind: kinds.count(kind) for kind in ("row", "prompt", "overlap")}


@dataclass(frozen=True)
class Key:
    """What a look depends on."""

    evaluated: str
    limit: int | None
    seed: int
    sources: tuple[str, ...]
    versions: tuple[DatasetVersion, ...] = field(compare=False)  # the evaluated one first


class Look(looking.Look[Found]):
    def __init__(self, key: Key) -> None:
        super().__init__(Found(total=sum(one.rows for one in key.versions[1:])))
        self.key = key
        self.index = Index()

    def go(self) -> Iterator[None]:
        evaluated, *sources = self.key.versions
        chosen = prompts.numbers(evaluated.rows, self.key.limit, self.key.seed)
        for number, line in browse.some(evaluated, chosen):
            if number % PAUSE_ROWS == 0:
                yield
            self.index.add(number, orjson.loads(line))
            self.found.rows += 1
        self.index.close()
        for source in sources:
            for place, line in enumerate(browse.lines(source)):
                if place % PAUSE_ROWS == 0:
                    yield
                self.index.see(source.id, place, orjson.loads(line))
                self.found.read += 1
        self.found.hits, self.found.partial = self.index.hits(), self.index.full
        self.index = Index()


@lru_cache(maxsize=8)
def kept(key: Key) -> Look:
    return Look(key)


def look(key: Key | None, seconds: float = looking.STRETCH) -> Found:
    """Go on looking for `seconds`; nothing where there is nothing to compare with."""
    return kept(key).stretch(seconds) if key else Found(complete=True)


# -- what is compared --------------------------------------------------------------------


def key(
    db: Session,
    workspace_id: str,
    evaluated: str,
    settings: Settings,
    sources: Sequence[str],
) -> Key | None:
    """None if there is no training data. Versions that were deleted are left out. Raises NotFound,
    Conflict and Invalid for what is evaluated.
    """
    version = datasets.published(db, workspace_id, evaluated)
    service.check_prompts(version)
    query = (
        select(DatasetVersion)
        .join(DatasetVersion.dataset)
        .options(joinedload(DatasetVersion.dataset))
        .where(DatasetVersion.id.in_(sources), datasets.visible(workspace_id))
        .order_by(DatasetVersion.id)
    )
    found = [one for one in db.scalars(query) if one.status == "published"]
    if not found:
        return None
    ids = tuple(one.id for one in found)
    return Key(version.id, settings.limit, settings.seed, ids, (version, *found))


def of_evaluation(db: Session, one: Evaluation) -> Key | None:
    """What its candidates learnt from."""
    several = service.candidates(db, [one.id])[one.id]
    models = [each.model_id for each in several if each.model_id]
    checkpoints = [each.target for each in several if each.kind == "checkpoint"]
    sources = learnt(db, one.workspace_id, models, checkpoints)
    settings = Settings.model_validate(one.settings)
    return key(db, one.workspace_id, one.dataset_version_id, settings, sources)


def candidates_learnt(
    db: Session, workspace_id: str, candidates: Sequence[CandidateIn]
) -> list[str]:
    """What these were trained on here. Raises NotFound and Conflict for what is none."""
    chosen = service.choose(db, workspace_id, candidates)
    models = [model_id for *_, model_id in chosen if model_id]
    checkpoints = [target for one, target, *_ in chosen if one.kind == "checkpoint"]
    return learnt(db, workspace_id, models, checkpoints)


def learnt(
    db: Session, workspace_id: str, models: Sequence[str], checkpoints: Sequence[str] = ()
) -> list[str]:
    """The dataset versions that these were trained on here, and what they were made from."""
    found: dict[str, None] = {}
    wanted = list(models)
    for job_id in {name.partition("/")[0] for name in checkpoints}:
        job = db.get(Job, job_id)
        if job is not None and job.workspace_id == workspace_id:
            found |= dict.fromkeys(part["version"] for part in parts_of(job))
            wanted.append(job.model_id)
    seen: set[str] = set()
    while wanted and len(seen) < LONGEST_LINE:
        model = db.get(Model, wanted.pop())
        if model is None or model.id in seen:
            continue
        seen.add(model.id)
        found |= dict.fromkeys(versions_in(model.lineage))
        wanted += [one for one in (model.parent_id, model.base_id) if one]
    return list(found)[:MOST_SOURCES]


def versions_in(lineage: dict[str, Any]) -> list[str]:
    told = [lineage.get("dataset"), *(lineage.get("datasets") or [])]
    return [one["version_id"] for one in told if one and one.get("version_id")]


# -- what is shown -----------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A hit with both texts."""

    hit: Hit
    text: str
    source: str  # the dataset's name and version
    dataset_id: str
    found: str  # the training row's text


def shown(of: Key, hits: Sequence[Hit]) -> list[Shown]:
    versions = {one.id: one for one in of.versions}
    rows = dict(browse.some(of.versions[0], sorted({one.number for one in hits})))
    found = []
    for one in hits:
        source = versions[one.source]
        there = browse.row(source, one.place)
        found.append(
            Shown(
                one,
                excerpt(orjson.loads(rows[one.number])),
                f"{source.dataset.name} v{source.number}",
                source.dataset_id,
                excerpt(there),
            )
        )
    return found


def excerpt(row: dict[str, Any]) -> str:
    """What it asks, without the system message, and what it answers."""
    if "messages" not in row:
        return str(row.get("text") or "")[:EXCERPT]
    asked = prompts.question(row)
    said = [str(one.get("content") or "") for one in asked.messages if one["role"] != "system"]
    return f"{' '.join(said)[:EXCERPT]} → {asked.reference[:EXCERPT]}"
