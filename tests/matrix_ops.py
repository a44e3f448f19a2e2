"""What `tests/matrix.py` needs for alerts and backups."""

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.tables import Workspace
from app.alerts.tables import AlertRule
from tests.factories import added

RULE = {"name": "x", "kinds": ["job_failed"], "addresses": ["a@example.com"]}
BODIES: dict[str, dict[str, Any]] = {
    "PUT /api/v1/jobs/{job_id}/keep": {"keep": True},
    "POST /api/v1/alerts/rules": RULE,
    "PUT /api/v1/alerts/rules/{rule_id}": RULE,
    "POST /api/v1/platform/alerts/rules": RULE,
    "PUT /api/v1/platform/alerts/rules/{platform_rule_id}": RULE,
}


def objects(db: Session, workspace: Workspace) -> dict[str, str]:
    rule = AlertRule(workspace_id=workspace.id, name="x", kinds=["job_failed"], how="mail")
    of_all = AlertRule(workspace_id=None, name="x", kinds=["job_failed"], how="mail")
    return {"rule_id": added(db, rule).id, "platform_rule_id": added(db, of_all).id}
