"""Raising and resolving: what other domains call.

    alerts.raise_(db, "job_failed", job.id, N_("Job %(name)s failed."), {"name": job.name},
                  workspace_id=job.workspace_id, link=f"/jobs/{job.id}")

Raising what fires already is doing nothing, so a sweep may raise what it sees as often as it looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.alerts.kinds import KINDS
from app.alerts.tables import Alert, AlertDelivery, AlertRule
from app.db import new_id, now
from app.queue import send

TASK = "workers.deliver_alert"
KEPT = timedelta(days=90)  # how long what is over stays in the history


@dataclass(frozen=True)
class Facts:
    """What an alert says."""

    message: str  # a msgid
    params: dict[str, Any] = field(default_factory=dict)
    workspace_id: str | None = None
    link: str = ""


def raise_(
    db: Session,
    kind: str,
    subject: str,
    message: str,
    params: dict[str, Any] | None = None,
    *,
    workspace_id: str | None = None,
    link: str = "",
) -> None:
    """Something is wrong with `subject`; those whose rules ask for it are told, once."""
    at = now()
    row = {
        "id": new_id("alr"),
        "workspace_id": workspace_id,
        "kind": kind,
        "subject": subject,
        "message": message,
        "params": params or {},
        "link": link,
        "fired_at": at,
        "resolved_at": None if KINDS[kind].lasting else at,
    }
    found = db.scalar(insert(Alert).values(**row).on_conflict_do_nothing().returning(Alert.id))
    if found:
        for rule in rules_for(db, kind, workspace_id):
            tell(db, rule.id, "firing", found)


def resolve(db: Session, kind: str, subject: str) -> None:
    """It is well again; those who were told that it was not hear of it."""
    alert = db.scalar(
        select(Alert)
        .where(Alert.kind == kind, Alert.subject == subject, Alert.resolved_at.is_(None))
        .with_for_update()
    )
    if alert:
        end(db, alert)


def end(db: Session, alert: Alert) -> None:
    alert.resolved_at = now()
    told = select(AlertDelivery.rule_id).where(
        AlertDelivery.alert_id == alert.id, AlertDelivery.event == "firing"
    )
    for rule_id in db.scalars(
        select(AlertRule.id).where(AlertRule.id.in_(told), AlertRule.enabled)
    ):
        tell(db, rule_id, "resolved", alert.id)
    db.flush()


def keep(db: Session, kind: str, wrong: Mapping[str, Facts]) -> None:
    """Exactly `wrong` fires of this kind: raise what is new, resolve what is over."""
    firing = {
        one.subject: one
        for one in db.scalars(
            select(Alert).where(Alert.kind == kind, Alert.resolved_at.is_(None)).with_for_update()
        )
    }
    for subject, alert in firing.items():
        if subject not in wrong:
            end(db, alert)
    for subject, facts in wrong.items():
        if subject not in firing:
            raise_(
                db,
                kind,
                subject,
                facts.message,
                facts.params,
                workspace_id=facts.workspace_id,
                link=facts.link,
            )


# -- telling -----------------------------------------------------------------------------


def rules_for(db: Session, kind: str, workspace_id: str | None) -> list[AlertRule]:
    """The workspace's own, and the platform's."""
    mine = or_(AlertRule.workspace_id.is_(None), AlertRule.workspace_id == workspace_id)
    asked = select(AlertRule).where(AlertRule.enabled, AlertRule.kinds.contains([kind]), mine)
    return list(db.scalars(asked))


def tell(db: Session, rule_id: str, event: str, alert_id: str | None) -> AlertDelivery:
    made = AlertDelivery(rule_id=rule_id, alert_id=alert_id, event=event)
    db.add(made)
    db.flush()
    send(db, TASK, made.id)
    return made


def resend(db: Session) -> None:
    """For the sweep: nudge somebody to deliver what is due."""
    due = (
        select(AlertDelivery.id)
        .where(AlertDelivery.state == "waiting", AlertDelivery.due_at <= now())
        .order_by(AlertDelivery.due_at)
        .limit(100)
    )
    for delivery_id in db.scalars(due):
        send(db, TASK, delivery_id)


def repeat(db: Session) -> None:
    """For the sweep: tell again, as often as a rule says, of what still fires."""
    last = func.max(AlertDelivery.created_at)
    due = (
        select(AlertDelivery.rule_id, AlertDelivery.alert_id)
        .join(AlertRule, AlertRule.id == AlertDelivery.rule_id)
        .join(Alert, Alert.id == AlertDelivery.alert_id)
        .where(Alert.resolved_at.is_(None), AlertRule.enabled, AlertRule.repeat_minutes > 0)
        .group_by(AlertDelivery.rule_id, AlertDelivery.alert_id, AlertRule.repeat_minutes)
        .having(last < func.now() - func.make_interval(0, 0, 0, 0, 0, AlertRule.repeat_minutes))
        .limit(100)
    )
    for rule_id, alert_id in db.execute(due).all():
        tell(db, rule_id, "repeated", alert_id)


def clear(db: Session) -> None:
    """For the sweep: what was over long ago goes, with the telling of it."""
    old = now() - KEPT
    over = select(Alert.id).where(Alert.resolved_at < old).limit(500)
    db.execute(delete(Alert).where(Alert.id.in_(over)))
    tests = AlertDelivery.alert_id.is_(None) & (AlertDelivery.created_at < old)
    db.execute(delete(AlertDelivery).where(tests))
