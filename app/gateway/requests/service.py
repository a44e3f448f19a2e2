"""The request log: what is kept, finding it, letting it go."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, select, tuple_, update
from sqlalchemy.orm import Session, defer

from app.accounts.auth import Principal
from app.accounts.tables import ApiKey, User
from app.db import now
from app.errors import N_, NotFound
from app.gateway.requests.schemas import ChoiceIn, Wanted
from app.gateway.requests.tables import LogChoice, LoggedRequest
from app.queue import transaction

PAGE = 200  # entries read at once for a download
SWEPT = 5000  # entries that one sweep lets go
NO_KEY = N_("There is no such API key.")
NO_REQUEST = N_("There is no such request in the log.")
HEAVY = (LoggedRequest.asked, LoggedRequest.answer, LoggedRequest.words)


# -- what is kept ------------------------------------------------------------------------


def keys(db: Session, who: Principal) -> list[tuple[ApiKey, User, LogChoice | None]]:
    """Those that work, with what they keep: one's own; an admin sees the workspace's."""
    query = (
        select(ApiKey, User, LogChoice)
        .join(User, User.id == ApiKey.user_id)
        .outerjoin(LogChoice, LogChoice.api_key_id == ApiKey.id)
        .where(ApiKey.workspace_id == who.workspace_id, ApiKey.revoked_at.is_(None))
        .order_by(ApiKey.created_at.desc(), ApiKey.id)
    )
    if not who.may("admin"):
        query = query.where(ApiKey.user_id == who.user_id)
    return [(key, user, choice) for key, user, choice in db.execute(query)]


def own_key(db: Session, who: Principal, key_id: str) -> ApiKey:
    """One's own, or for an admin any of the workspace. Raises NotFound."""
    key = db.get(ApiKey, key_id)
    if key is None or key.workspace_id != who.workspace_id:
        raise NotFound(NO_KEY)
    if key.user_id != who.user_id and not who.may("admin"):
        raise NotFound(NO_KEY)
    return key


def choice(db: Session, who: Principal, key_id: str) -> LogChoice | None:
    """What a key keeps; None is nothing. Raises NotFound."""
    return db.get(LogChoice, own_key(db, who, key_id).id)


def choose(db: Session, who: Principal, key_id: str, wanted: ChoiceIn) -> LogChoice | None:
    """What is kept from now on. Fewer days count for what is there already, too."""
    key = own_key(db, who, key_id)
    found = db.get(LogChoice, key.id, with_for_update=True)
    if wanted.log == "off":
        if found is not None:
            db.delete(found)
        return None
    if found is None:
        found = LogChoice(api_key_id=key.id)
        db.add(found)
    found.log, found.days, found.redact = wanted.log, wanted.days, wanted.redact
    db.flush()
    db.execute(
        update(LoggedRequest)
        .where(LoggedRequest.api_key_id == key.id)
        .values(
            expires_at=func.least(
                LoggedRequest.expires_at, LoggedRequest.at + timedelta(days=wanted.days)
            )
        )
    )
    return found


# -- finding -----------------------------------------------------------------------------


def mine(who: Principal) -> tuple[Any, ...]:
    """The conditions on entries that `who` may see."""
    here = (LoggedRequest.workspace_id == who.workspace_id, LoggedRequest.expires_at > now())
    return here if who.may("admin") else (*here, LoggedRequest.user_id == who.user_id)


def matching(who: Principal, wanted: Wanted) -> Select[LoggedRequest]:
    """Entries that fit the filter, in no order."""
    query = select(LoggedRequest).where(*mine(who))
    if wanted.key:
        query = query.where(LoggedRequest.api_key_id == wanted.key)
    if wanted.model:
        query = query.where(LoggedRequest.model == wanted.model)
    if wanted.status:
        good = LoggedRequest.status < 400
        query = query.where(good if wanted.status == "ok" else ~good)
    if wanted.days:
        query = query.where(LoggedRequest.at >= now() - timedelta(days=wanted.days))
    if wanted.q.strip():
        words = [LoggedRequest.words.icontains(word, autoescape=True) for word in wanted.q.split()]
        query = query.where(and_(*words))
    return query


def page(
    db: Session, who: Principal, wanted: Wanted, *, offset: int = 0, limit: int = 50
) -> tuple[list[LoggedRequest], int]:
    """The newest first, without their texts, and how many match."""
    query = matching(who, wanted)
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    query = query.order_by(LoggedRequest.at.desc(), LoggedRequest.id.desc())
    light = query.options(*(defer(column, raiseload=True) for column in HEAVY))
    return list(db.scalars(light.offset(offset).limit(limit))), total


def listed(
    db: Session, who: Principal, wanted: Wanted, *, after: str = "", limit: int = 50
) -> tuple[list[LoggedRequest], bool]:
    """The newest first, whole, those that follow the entry `after`; whether there are more."""
    query = matching(who, wanted)
    if after:
        last = get(db, who, after)
        query = query.where(tuple_(LoggedRequest.at, LoggedRequest.id) < (last.at, last.id))
    query = query.order_by(LoggedRequest.at.desc(), LoggedRequest.id.desc())
    found = list(db.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def get(db: Session, who: Principal, request_id: str) -> LoggedRequest:
    """Raises NotFound, also for another's whose log one may not see."""
    found = db.scalar(select(LoggedRequest).where(LoggedRequest.id == request_id, *mine(who)))
    if found is None:
        raise NotFound(NO_REQUEST)
    return found


def models(db: Session, who: Principal) -> list[str]:
    """What was asked for."""
    return sorted(db.scalars(select(LoggedRequest.model).where(*mine(who)).distinct()))


def every(who: Principal, wanted: Wanted) -> Iterator[LoggedRequest]:
    """All that match, the newest first; no session is held between two pages of them."""
    after = ""
    while True:
        with transaction() as db:
            try:
                found, more = listed(db, who, wanted, after=after, limit=PAGE)
            except NotFound:  # the last one was swept meanwhile, and with it all that follow
                return
        yield from found
        if not more:
            return
        after = found[-1].id


# -- letting go --------------------------------------------------------------------------


def clear(db: Session) -> None:
    """A step of the sweep: entries whose time is over."""
    over = select(LoggedRequest.id).where(LoggedRequest.expires_at <= now()).limit(SWEPT)
    db.execute(delete(LoggedRequest).where(LoggedRequest.id.in_(over)))
