"""Rows of an evaluation as a draft dataset, to be corrected and learned from."""

from typing import Any

import orjson
from sqlalchemy.orm import joinedload

from app.accounts.auth import Principal
from app.datasets import work
from app.datasets.rows import browse
from app.datasets.tables import DatasetVersion
from app.errors import N_, Invalid
from app.evaluations import service
from app.gateway.requests.making import written
from app.queue import transaction

MOST = 2_000


def make(who: Principal, evaluation_id: str, numbers: list[int]) -> DatasetVersion:
    """The rows as they stand in their dataset, as a new one. Raises Invalid if there are none."""
    with transaction() as db:
        one = service.get(db, who.workspace_id, evaluation_id)
        version = db.get_one(
            DatasetVersion,
            one.dataset_version_id,
            options=[joinedload(DatasetVersion.dataset)],
        )
    wanted = sorted({number for number in numbers if 0 <= number < version.rows})[:MOST]
    if not wanted:
        raise Invalid(N_("Choose at least one row."), code="no_rows", field="rows")
    rows: list[dict[str, Any]] = []
    for _, line in browse.some(version, wanted):
        row = orjson.loads(line)
        row.pop("id", None)
        rows.append(row)
    return work.take(who, written(rows, f"{version.dataset.name[:80]} · {one.name[:30]}"))
