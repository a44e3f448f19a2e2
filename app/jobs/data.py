"""The data of a job: which versions, how much of each, and what validates.

In the job's row, `dataset_version_id` is the main dataset, `validation_version_id` validation data
of its own, and `mix` what goes beyond one dataset taken as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.errors import N_, DomainError, Invalid
from app.jobs import mixing
from app.jobs.methods import KINDS
from app.jobs.mixing import Amount
from app.jobs.spec import Split
from app.jobs.tables import Job

ALSO = {("pretrain", "sft")}  # conversations are texts as well, once the template has them
ROWS = {
    "sft": N_("conversations"),
    "pretrain": N_("plain texts"),
    "preference": N_("preferences"),
    "kto": N_("labelled answers"),
}


@dataclass(frozen=True)
class Item:
    version: DatasetVersion
    multiplier: float | None = 1.0
    share: float | None = None


@dataclass(frozen=True)
class Data:
    """What a job was asked to learn from: the main dataset first."""

    items: list[Item]
    validation: DatasetVersion | None = None
    split: Split | None = None
    drop_leaks: bool = False

    @property
    def main(self) -> DatasetVersion:
        return self.items[0].version

    @property
    def versions(self) -> list[DatasetVersion]:
        """All that the job reads, each once."""
        found = [item.version for item in self.items]
        if self.validation and self.validation not in found:
            found.append(self.validation)
        return found

    @property
    def held(self) -> int:
        """Rows held back, at most. Raises Invalid when too few are there."""
        if self.split is None:
            return 0
        return mixing.held_back(self.main.rows, self.split.split, self.split.most)

    def amounts(self, held: int) -> list[Amount]:
        """Once `held` rows of the main dataset are held back."""
        rows = [item.version.rows for item in self.items]
        rows[0] -= held
        return [
            Amount(count, item.multiplier, item.share)
            for count, item in zip(rows, self.items, strict=True)
        ]

    def stored(self) -> dict[str, Any]:
        """For the job's row; empty for one dataset as it is."""
        plain = len(self.items) == 1 and self.items[0].multiplier == 1
        found: dict[str, Any] = {}
        if not plain:
            found["datasets"] = [
                {"version": item.version.id}
                | ({"multiplier": item.multiplier} if item.share is None else {"share": item.share})
                for item in self.items
            ]
        if self.split:
            found["split"] = self.split.model_dump()
        if self.drop_leaks:
            found["drop_leaks"] = True
        return found


# -- choosing ----------------------------------------------------------------------------


def choose(
    db: Session,
    workspace_id: str,
    *,
    stage: str,
    dataset: str | None,
    items: Sequence[Any] | None,
    validation: str | Split | None,
    drop_leaks: bool = False,
) -> Data:
    """Find and check the versions; `items` have `dataset`, `version`, `multiplier` and `share`.

    Raises NotFound, Conflict (not published) and Invalid, with the field that is wrong.
    """
    if (dataset is None) == (items is None):
        raise Invalid(
            N_("Say what to train on: one `dataset`, or several `datasets`."),
            code="missing",
            field="dataset",
        )
    if items is None:
        assert dataset is not None
        chosen = [Item(find(db, workspace_id, dataset, "dataset", stage))]
    else:
        chosen = [
            item(db, workspace_id, one, f"datasets.{number}", stage, first=number == 0)
            for number, one in enumerate(items)
        ]
        distinct(chosen)
    split = Split() if validation == "auto" else validation
    own = None
    if isinstance(split, str):
        own = find(db, workspace_id, split, "validation", stage) if split else None
        split = None
    found = Data(chosen, own, split, drop_leaks)
    mixing.effective(found.amounts(found.held))
    return found


def item(db: Session, workspace_id: str, one: Any, field: str, stage: str, *, first: bool) -> Item:
    if one.multiplier is not None and one.share is not None:
        raise Invalid(
            N_("A dataset has a multiplier or a share, not both."),
            code="mix.both",
            field=f"{field}.share",
        )
    if first and one.share is not None:
        raise Invalid(
            N_(
                "The first dataset has a multiplier: the shares of the others are of all rows, and"
                " it makes up what they leave."
            ),
            code="mix.main",
            field=f"{field}.share",
        )
    version = find(db, workspace_id, one.dataset, f"{field}.dataset", stage, str(one.version or ""))
    if one.share is not None:
        return Item(version, None, one.share)
    return Item(version, 1.0 if one.multiplier is None else one.multiplier)


def find(
    db: Session, workspace_id: str, wanted: str, field: str, stage: str, which: str = ""
) -> DatasetVersion:
    """A published version whose rows the stage can learn from."""
    try:
        if which:
            dataset_id = datasets.version(db, workspace_id, wanted, which).id
            version = datasets.published(db, workspace_id, dataset_id)
        else:
            version = datasets.published(db, workspace_id, wanted)
    except DomainError as error:
        error.field = field
        raise
    kind = KINDS[stage]
    if version.kind != kind and (stage, version.kind) not in ALSO:
        raise Invalid(
            N_("“%(name)s” holds %(found)s, and this training needs %(wanted)s."),
            code="wrong_kind",
            field=field,
            name=version.dataset.name,
            found={"message": ROWS[version.kind], "params": {}},
            wanted={"message": ROWS[kind], "params": {}},
        )
    return version


def distinct(items: list[Item]) -> None:
    """Raises Invalid for a version that stands there twice."""
    seen: set[str] = set()
    for number, one in enumerate(items):
        if one.version.id in seen:
            raise Invalid(
                N_("“%(name)s” stands there twice. Give it a higher multiplier instead."),
                code="mix.twice",
                field=f"datasets.{number}.dataset",
                name=one.version.dataset.name,
            )
        seen.add(one.version.id)


# -- of a job ----------------------------------------------------------------------------


def parts_of(job: Job) -> list[dict[str, Any]]:
    """[{version, multiplier | share}], the main dataset first; empty for a merge."""
    if job.dataset_version_id is None:
        return []
    found: list[dict[str, Any]] = job.mix.get("datasets") or [
        {"version": job.dataset_version_id, "multiplier": 1.0}
    ]
    return found


def items_of(job: Job) -> list[dict[str, Any]]:
    """The same, as the API says it: [{dataset, multiplier | share}]."""
    return [{"dataset": part["version"]} | without_version(part) for part in parts_of(job)]


def without_version(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "version"}


def versions_of(job: Job) -> set[str]:
    """Ids of all versions that the job reads."""
    found = {part["version"] for part in parts_of(job)}
    if job.evaluation:
        found.add(job.evaluation["dataset"])
    return found | ({job.validation_version_id} if job.validation_version_id else set())


def settings_of(job: Job) -> dict[str, Any]:
    """The job's data as fields of the body of `POST /api/v1/jobs`."""
    found: dict[str, Any] = {"dataset": job.dataset_version_id}
    if "datasets" in job.mix:
        found = {"datasets": items_of(job)}
    found["validation"] = job.mix.get("split") or job.validation_version_id
    if job.mix.get("drop_leaks"):
        found["drop_leaks"] = True
    return found


def form_values(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings_of` as values of the form's fields; other fields stay as they are."""
    values = dict(settings)
    items = values.pop("datasets", None) or []
    for number, one in enumerate(items):
        if number == 0:
            values |= {"dataset": one["dataset"], "multiplier": one["multiplier"]}
            continue
        by = "share" if "share" in one else "multiplier"
        values |= {
            f"more-{number}": one["dataset"],
            f"amount-{number}": one[by],
            f"by-{number}": by,
        }
    if isinstance(split := values.get("validation"), dict):
        values |= {
            "validation": "auto",
            "split": round(split["split"] * 100, 6),
            "split_most": split["most"],
            "split_seed": split["seed"],
        }
    return values
