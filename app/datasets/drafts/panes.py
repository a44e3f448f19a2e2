"""What the pages show of a draft beside its rows: one row, and what may be done with it."""

import re
from typing import Any

from fastapi import Request
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.datasets.drafts import acts, differing, overlay
from app.datasets.rows import browse
from app.datasets.states import DRAFT
from app.datasets.tables import DatasetVersion, DraftAct
from app.errors import NotFound
from app.queue import transaction

THINK = re.compile(r"<think>(.*?)</think>\s*", re.DOTALL)
VIEWS = ("chat", "json", "tokens")


def pane(version: DatasetVersion, number: int | None, view: str) -> dict[str, Any]:
    """What the right side shows: one row, as a conversation, as JSON, or as the model sees it."""
    nothing = {"number": None, "row": None, "pretty": "", "mark": "", "view": view, "tell": TELL}
    if number is None:
        return nothing | {"last": 0}
    over = overlay.of(version)
    entry = overlay.entry(over, number)
    row = entry.row
    return {
        "number": number,
        "row": row,
        "pretty": browse.pretty(row) if view == "json" else "",
        "mark": over.mark(row["id"]),
        "view": view if view in VIEWS else "chat",
        "last": over.rows - 1,
        "hash": entry.hash,
        "tell": TELL,
    }


def thought(content: str) -> tuple[str, str]:
    """What a model thought aloud before its answer, and the answer."""
    found = THINK.match(content.lstrip())
    return (found[1].strip(), content.lstrip()[found.end() :]) if found else ("", content)


TELL = {"thought": thought, "json": differing.pretty}  # what the macros of _turns.html ask for


def desk(
    request: Request, version: DatasetVersion, found: dict[str, DraftAct] | None = None
) -> dict[str, Any]:
    """Whether the reader may change the draft, and what could be undone: `found`, if `standing`
    has asked for it already.
    """
    if not changeable(request.state.who, version):
        return {"editable": False, "undoable": None, "redoable": None, "running": None, "gone": 0}
    if found is None:
        with transaction() as db:
            found = acts.standing(db, version.id)
    return {
        "editable": "running" not in found,
        "undoable": found.get("done"),
        "redoable": found.get("undone"),
        "running": found.get("running"),
        "gone": len(overlay.of(version).gone),
    }


def changeable(who: Principal, version: DatasetVersion) -> bool:
    mine = version.dataset.workspace_id is not None and who.may("member")
    return version.status == DRAFT and mine


def standing(db: Session, who: Principal, version: DatasetVersion) -> dict[str, DraftAct]:
    """What `desk` wants to know, in the transaction that found the version."""
    return acts.standing(db, version.id) if changeable(who, version) else {}


def first(page: browse.Page, version: DatasetVersion, wanted: int | None) -> int | None:
    """The number of the row that is open: the one asked for, or the first of the list."""
    if wanted is None:
        return page.rows[0][0] if page.rows else None
    if not 0 <= wanted < version.rows:
        raise NotFound(overlay.NO_ROW)
    return wanted
