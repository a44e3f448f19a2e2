"""What tests of alerts do again and again."""

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.alerts import delivering, rules
from app.alerts import service as alerts
from app.alerts.schemas import RuleIn
from app.alerts.tables import AlertDelivery, AlertRule
from app.errors import N_
from tests import factories as make
from tests.conftest import Client

FAILED = N_("Job %(name)s failed.")


def rule(db: Session, client: Client, *, of_platform: bool = False, **given: object) -> AlertRule:
    who = make.make_principal(client.user, client.workspace)
    values = {"name": "ops", "kinds": ["job_failed"], "language": "en"} | given
    made, _ = rules.save(
        db, who, None if of_platform else client.workspace.id, RuleIn.model_validate(values)
    )
    db.commit()
    return made


def fire(db: Session, client: Client, kind: str = "job_failed", subject: str = "job_x") -> None:
    alerts.raise_(
        db,
        kind,
        subject,
        FAILED,
        {"name": "tone"},
        workspace_id=client.workspace.id,
        link="/jobs/job_x",
    )
    db.commit()


def deliver(db: Session) -> list[AlertDelivery]:
    """What the workers would do; the deliveries, the oldest first."""
    order = select(AlertDelivery).order_by(AlertDelivery.created_at, AlertDelivery.id)
    for one in db.scalars(order.where(AlertDelivery.state == "waiting")):
        delivering.deliver(one.id)
    db.expire_all()
    return list(db.scalars(order))


def late(db: Session) -> None:
    db.execute(text("UPDATE alert_deliveries SET due_at = now()"))
    db.commit()
