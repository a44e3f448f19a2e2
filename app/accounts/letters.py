"""Mails with one-time links, where the platform has a mail server. The link is shown to whoever made it
as well, so that nothing is lost with a mail.

What is to be sent travels to the worker sealed: the broker sees no link.
"""

import json
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from app import mail, sealing
from app.accounts import platform
from app.accounts.auth import Principal
from app.accounts.tables import Invitation, User, Workspace
from app.errors import N_, DomainError
from app.queue import send, transaction
from app.web import catalogue

log = structlog.get_logger()

TASK = "workers.send_letter"
INVITES = N_("%(who)s invites you to %(place)s")
INVITATION = N_(
    """%(who)s invites you to %(place)s.

Open this link to join. It works once, until %(until)s UTC.

%(url)s

If you do not know what this is about, do nothing."""
)
RESETS = N_("A new password for %(place)s")
RESET = N_(
    """An administrator has made a link with which you set a new password for %(place)s.

It works once, until %(until)s UTC. Until then your old password goes on working.

%(url)s

If you did not ask for it, tell an administrator."""
)


def invitation(db: Session, who: Principal, row: Invitation, url: str, language: str) -> bool:
    """Mail an invitation's link to whom it invites; False where there is no mail server."""
    site = platform.read(db).general.name
    workspace = db.get(Workspace, row.workspace_id) if row.workspace_id else None
    place = f"{workspace.name} ({site})" if workspace else site
    facts = {"who": plain(who.name), "place": plain(place), "until": until(row.expires_at)}
    return post(db, row.email, language, INVITES, INVITATION, facts | {"url": url})


def reset(db: Session, user: User, expires_at: datetime, url: str, language: str) -> bool:
    """Mail the link of a new password to whose it is; False where there is no mail server."""
    facts = {"place": plain(platform.read(db).general.name), "until": until(expires_at)}
    return post(db, user.email, language, RESETS, RESET, facts | {"url": url})


def plain(name: str) -> str:
    """A name, on one line."""
    return " ".join(name.split())


def until(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def post(
    db: Session, to: str, language: str, subject: str, text: str, facts: dict[str, str]
) -> bool:
    if not platform.read(db).mail.ready:
        return False
    words = catalogue(language)
    letter = [to, words.gettext(subject) % facts, words.gettext(text) % facts]
    send(db, TASK, sealing.seal(json.dumps(letter)))
    return True


def deliver(sealed: str) -> None:
    """The body of the task. A server that refuses costs a line in the log: the link was shown, too."""
    to, subject, text = json.loads(sealing.unseal(sealed))
    with transaction() as db:
        wanted = platform.read(db).mail
        server = wanted.server() if wanted.ready else None
    if server is None:
        return
    try:
        mail.send(server, [to], subject, text)
    except DomainError as error:
        log.warning("a letter is not sent", to=to, why=error.message % error.params)
