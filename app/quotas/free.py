"""Free quotas: so much of a model costs a workspace nothing, up to a day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.errors import N_, Invalid, NotFound
from app.quotas.charging import free_left
from app.quotas.money_tables import FreeQuota, FreeStop

TOKENS, DEVICE = "tokens", "device"
MINUTE = 60_000  # milliseconds


@dataclass(frozen=True)
class Free:
    """Of one model for one workspace: tokens, or minutes of a device."""

    id: str
    model_id: str
    kind: str
    amount: int
    used: int
    last_day: date
    stops: bool  # calls stop when it is used up

    @property
    def left(self) -> int:
        return max(0, self.amount - self.used)


def of(db: Session, workspace_id: str, model_ids: Sequence[str] = ()) -> list[Free]:
    """Those that count today, of these models or all; what ends first comes first."""
    stops = set(db.scalars(select(FreeStop.model_id).where(FreeStop.workspace_id == workspace_id)))
    return [
        Free(
            row.id,
            row.model_id,
            row.kind,
            shown(row.kind, row.amount),
            shown(row.kind, used),
            row.last_day,
            row.model_id in stops,
        )
        for row, used in free_left(db, workspace_id, now().date(), model_ids)
    ]


def shown(kind: str, stored: int) -> int:
    """Minutes are kept in milliseconds."""
    return stored // MINUTE if kind == DEVICE else stored


def give(
    db: Session, model_id: str, workspace_id: str | None, kind: str, amount: int, last_day: date
) -> FreeQuota:
    """To one workspace, or with None to each. `amount`: tokens, or minutes. Raises Invalid."""
    if last_day < now().date():
        raise Invalid(N_("This day is over already."), field="last_day")
    row = FreeQuota(
        id=new_id("free"),
        workspace_id=workspace_id,
        model_id=model_id,
        kind=kind,
        amount=amount * MINUTE if kind == DEVICE else amount,
        last_day=last_day,
    )
    db.add(row)
    db.flush()
    return row


def take_back(db: Session, free_id: str) -> None:
    """What was used of it stays free. Raises NotFound."""
    row = db.get(FreeQuota, free_id)
    if row is None:
        raise NotFound(N_("There is no such free quota."))
    db.delete(row)
    db.flush()


def stop(db: Session, workspace_id: str, model_id: str, stops: bool) -> None:
    """Whether calls of the model stop when its free quota is used up, rather than cost money."""
    values = {"workspace_id": workspace_id, "model_id": model_id}
    if stops:
        db.execute(insert(FreeStop).values(**values).on_conflict_do_nothing())
    else:
        db.execute(delete(FreeStop).filter_by(**values))


def exhausted(db: Session, workspace_id: str, model_ids: Sequence[str]) -> bool:
    """Whether the workspace wants to pay nothing for one of these models, and nothing free of it is
    left, or its time is over.
    """
    ids = [one for one in model_ids if one]
    stops = select(FreeStop.model_id).where(
        FreeStop.workspace_id == workspace_id, FreeStop.model_id.in_(ids)
    )
    if not ids or db.scalar(stops.limit(1)) is None:
        return False
    return not any(one.left for one in of(db, workspace_id, ids) if one.kind == TOKENS)
