"""Rules and what is seen of alerts. `workspace_id` None is the platform: its rules hear of all."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from app import addresses, paging
from app.accounts.auth import Principal
from app.alerts import service
from app.alerts.kinds import offered
from app.alerts.schemas import RuleIn
from app.alerts.tables import Alert, AlertDelivery, AlertRule
from app.errors import N_, DomainError, Invalid, NotFound, TooMany
from app.signing import new_key

MOST = 50  # rules of a workspace
TESTS = 10  # of a rule, in a minute


def listed(db: Session, workspace_id: str | None) -> list[AlertRule]:
    """By name."""
    mine = select(AlertRule).where(of(workspace_id)).order_by(AlertRule.name, AlertRule.id)
    return list(db.scalars(mine))


def of(workspace_id: str | None) -> ColumnElement[bool]:
    return AlertRule.workspace_id.is_not_distinct_from(workspace_id)


def get(db: Session, workspace_id: str | None, rule_id: str) -> AlertRule:
    """Raises NotFound."""
    rule = db.scalar(select(AlertRule).where(of(workspace_id), AlertRule.id == rule_id))
    if rule is None:
        raise NotFound
    return rule


def save(
    db: Session,
    who: Principal,
    workspace_id: str | None,
    given: RuleIn,
    rule: AlertRule | None = None,
) -> tuple[AlertRule, str | None]:
    """A new rule, or `rule` changed; and the secret of a webhook, if it was made now.

    Raises Invalid with the field.
    """
    made = None
    if not set(given.kinds) <= set(offered(platform=workspace_id is None)):
        raise Invalid(N_("Alerts of this kind are the platform administrators'."), field="kinds")
    check_recipients(given, rule)
    if rule is None:
        count = db.scalar(select(func.count()).select_from(AlertRule).where(of(workspace_id)))
        if count is not None and count >= MOST:
            raise Invalid(N_("There are %(most)s rules; that is all there may be."), most=MOST)
        rule = AlertRule(workspace_id=workspace_id, created_by=who.user_id, host="")
        db.add(rule)
    for name in ("name", "kinds", "how", "addresses", "language", "repeat_minutes", "enabled"):
        setattr(rule, name, getattr(given, name))
    if given.how == "mail":
        rule.url, rule.secret, rule.host = None, None, ""
    else:
        rule.addresses = []
        if given.url:
            rule.url, rule.host = given.url, addresses.parse(given.url).host
        if given.secret:
            rule.secret = given.secret
        elif given.how == "webhook" and rule.secret is None:
            rule.secret = made = new_key()
    db.flush()
    return rule, made


def check_recipients(given: RuleIn, rule: AlertRule | None) -> None:
    if given.how == "mail":
        if not given.addresses:
            raise Invalid(N_("Whom shall the mail go to?"), field="addresses")
        return
    if not given.url:
        if rule is None or not rule.host:
            raise Invalid(N_("Which address shall be told?"), field="url")
        return
    try:
        addresses.parse(given.url)
    except DomainError as error:
        error.field = "url"
        raise
    if given.how == "webhook" and given.secret and not given.secret.startswith("whsec_"):
        raise Invalid(N_("A webhook's secret begins with whsec_; leave it empty for a new one."),
                      field="secret")  # fmt: skip


def remove(db: Session, workspace_id: str | None, rule_id: str) -> None:
    """With the log of what it told."""
    db.delete(get(db, workspace_id, rule_id))
    db.flush()


def test(db: Session, workspace_id: str | None, rule_id: str) -> AlertDelivery:
    """Tell its recipients that this is a test. Raises TooMany."""
    rule = get(db, workspace_id, rule_id)
    lately = db.scalar(
        select(func.count())
        .select_from(AlertDelivery)
        .where(
            AlertDelivery.rule_id == rule.id,
            AlertDelivery.event == "test",
            AlertDelivery.created_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 1),
        )
    )
    if lately is not None and lately >= TESTS:
        raise TooMany(N_("Too many tests at once. Wait a minute."), retry_after=60)
    return service.tell(db, rule.id, "test", None)


# -- what is seen ------------------------------------------------------------------------


def visible(workspace_id: str | None) -> Select[Any]:
    """A workspace sees its own; the platform all."""
    query = select(Alert)
    return query.where(Alert.workspace_id == workspace_id) if workspace_id else query


def firing(db: Session, workspace_id: str | None) -> list[Alert]:
    query = visible(workspace_id).where(Alert.resolved_at.is_(None))
    return list(db.scalars(query.order_by(Alert.fired_at.desc()).limit(200)))


def history(
    db: Session,
    workspace_id: str | None,
    *,
    state: str = "",
    kind: str = "",
    after: str = "",
    limit: int = 50,
) -> tuple[list[Alert], bool]:
    """Newest first; `state` is firing or resolved. Raises NotFound for an `after` that is gone."""
    seen = visible(workspace_id)
    query = seen
    if state:
        gone = Alert.resolved_at.is_not(None)
        query = query.where(gone if state == "resolved" else ~gone)
    if kind:
        query = query.where(Alert.kind == kind)
    query = paging.behind(db, query, seen, [Alert.fired_at.desc()], Alert.id, after)
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def deliveries(
    db: Session, workspace_id: str | None, *, rule_id: str = "", after: str = "", limit: int = 50
) -> tuple[list[AlertDelivery], bool]:
    """What the rules told, newest first. Raises NotFound."""
    seen = select(AlertDelivery).join(AlertRule).where(of(workspace_id))
    query = seen.where(AlertDelivery.rule_id == rule_id) if rule_id else seen
    order = [AlertDelivery.created_at.desc()]
    query = paging.behind(db, query, seen, order, AlertDelivery.id, after)
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit
