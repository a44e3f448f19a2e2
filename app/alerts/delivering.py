"""One try of one delivery: the body of the Celery task `workers.deliver_alert`.

Claimed first, so that a doubled nudge finds nothing to do; no session is held while the other side
takes its time.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from app import fetching, mail
from app.accounts import platform
from app.accounts.tables import Workspace
from app.alerts import formats
from app.alerts.formats import Notice
from app.alerts.tables import Alert, AlertDelivery, AlertRule
from app.db import now
from app.errors import N_, DomainError
from app.queue import transaction

PAUSES = (10, 60, 300, 1800, 7200)  # seconds before the next try; then it is given up
SECONDS = 15.0  # that one try may take
ANSWER = 64 * 1024  # bytes of a bot's answer
STATUS = N_("It answered with status %(status)s.")
REFUSED = N_("It refused: %(why)s")
NO_SERVER = N_("No mail server is set. An administrator sets one in the settings.")


@dataclass(frozen=True)
class Claimed:
    """All that one try needs."""

    id: str
    attempt: int
    how: str
    addresses: list[str]
    url: str
    secret: str
    server: mail.Server | None
    notice: Notice


class Unheard(DomainError):
    """Somebody answered, but did not take it."""

    code = "unheard"


def deliver(delivery_id: str) -> None:
    with transaction() as db:
        try:
            one = claim(db, delivery_id)
        except DomainError as error:  # the key that unseals is another one
            give_up(db, delivery_id, error)
            return
    if one is None:
        return
    failure: DomainError | None = None
    try:
        tell(one)
    except DomainError as error:
        failure = error
    with transaction() as db:
        settle(db, one, failure)


def claim(db: Session, delivery_id: str) -> Claimed | None:
    """Raises sealing.WrongKey."""
    row = db.get(AlertDelivery, delivery_id, with_for_update={"skip_locked": True})
    if row is None or row.state != "waiting" or row.due_at > now():
        return None
    pause = PAUSES[min(row.attempts, len(PAUSES) - 1)]
    rule = db.get_one(AlertRule, row.rule_id)
    alert = db.get(Alert, row.alert_id) if row.alert_id else None
    settings = platform.read(db)
    workspace = db.get(Workspace, alert.workspace_id) if alert and alert.workspace_id else None
    notice = Notice(
        id=row.id,
        event=row.event,
        alert=alert,
        language=rule.language,
        site=settings.general.name,
        workspace=workspace.name if workspace else "",
    )
    server = settings.mail.server() if rule.how == "mail" and settings.mail.ready else None
    row.attempts += 1
    row.due_at = now() + timedelta(seconds=2 * SECONDS + pause)
    return Claimed(
        id=row.id,
        attempt=row.attempts,
        how=rule.how,
        addresses=list(rule.addresses),
        url=rule.url or "",
        secret=rule.secret or "",
        server=server,
        notice=notice,
    )


def tell(one: Claimed) -> None:
    """Raises DomainError if nobody took it."""
    if one.how == "mail":
        if one.server is None:
            raise Unheard(NO_SERVER)
        mail.send(one.server, one.addresses, one.notice.subject, one.notice.text)
        return
    made = formats.post(one.how, one.url, one.secret, one.notice, now())
    status, body = fetching.asked(
        made.url, made.body, headers=made.headers, seconds=SECONDS, limit=ANSWER
    )
    if not 200 <= status < 300:
        raise Unheard(STATUS, status=status)
    if why := formats.refusal(one.how, body):
        raise Unheard(REFUSED, why=why)


def settle(db: Session, one: Claimed, failure: DomainError | None) -> None:
    row = db.get(AlertDelivery, one.id, with_for_update=True, populate_existing=True)
    if row is None or row.state != "waiting" or row.attempts != one.attempt:
        return
    if failure is None:
        row.state, row.delivered_at, row.error = "delivered", now(), None
        return
    row.error = failure.kept()
    if one.attempt > len(PAUSES) or row.event == "test" or getattr(failure, "for_good", False):
        row.state = "given up"


def give_up(db: Session, delivery_id: str, error: DomainError) -> None:
    row = db.get(AlertDelivery, delivery_id, with_for_update=True)
    if row:
        row.state, row.error = "given up", error.kept()
