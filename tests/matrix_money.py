"""Bodies of the routes of quotas and money, for `tests/matrix.py`."""

from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import User, Workspace
from app.models.tables import Model
from app.quotas.money_tables import FreeQuota, QuotaRequest
from tests import factories as make

BODIES: dict[str, dict[str, Any]] = {
    "PUT /api/v1/quotas": {"workspaces": ["{workspace_id}"], "devices": 1},
    "PUT /api/v1/quotas/default": {"devices": 1},
    "PUT /api/v1/quotas/{workspace}": {"devices": 1},
    "PUT /api/v1/quotas/{workspace}/members/{user_id}": {"devices": 1},
    "PUT /api/v1/quotas/{workspace}/share": {"weight": 2.0},
    "PUT /api/v1/prices": {"hour": "1.5"},
    "PUT /api/v1/prices/tokens": {"input": "0.01"},
    "POST /api/v1/free-quotas": {"model": "{model_id}", "amount": 5, "last_day": "2999-01-01"},
    "PUT /api/v1/free-quotas/stop": {"model": "{model_id}", "stop": True},
    "PUT /api/v1/balances/{workspace}": {"prepaid": False},
    "POST /api/v1/balances/{workspace}/top-ups": {"amount": "5"},
    "POST /api/v1/quota-requests": {"limit": "devices", "amount": 4, "why": "x"},
    "POST /api/v1/quota-requests/{quota_request_id}/refuse": {"answer": "x"},
}
FORMS: dict[str, dict[str, str]] = {
    "POST /usage/free": {"model": "{model_id}", "stop": "true"},
    "POST /usage/requests/{quota_request_id}/refuse": {"answer": "x"},
}


def filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [filled(one, ids) for one in value]
    return value.format(**ids) if isinstance(value, str) else value


def objects(db: Session, workspace: Workspace, owner: User, model: Model) -> dict[str, str]:
    free = FreeQuota(
        workspace_id=workspace.id, model_id=model.id, kind="tokens", amount=9, last_day=date.max
    )
    asked = QuotaRequest(
        workspace_id=workspace.id, user_id=owner.id, own=True, name="devices", amount=2, why="x"
    )
    return {"free_id": make.added(db, free).id, "quota_request_id": make.added(db, asked).id}
