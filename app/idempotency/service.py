"""Claims on keys, and the answers that are kept for them. The contract is Stripe's."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.db import now
from app.errors import N_, Conflict, Invalid
from app.idempotency.tables import OnceRequest

KEPT = timedelta(hours=24)
LONGEST = 255  # characters of a key
REUSED = N_("This Idempotency-Key was used for another request. Use a new one.")
UNKNOWN = N_(
    "A request with this Idempotency-Key is being worked on, or was interrupted. Look whether it was"
    " done before you send it again with a new key."
)
NOT_KEPT = N_(
    "The request with this Idempotency-Key was done. Its answer held a secret, which is not kept."
)


@dataclass(frozen=True)
class Answer:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def check(key: str) -> None:
    """Raises Invalid unless it is printable ASCII of a sensible length."""
    if not 0 < len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise Invalid(
            N_("An Idempotency-Key has 1 to %(most)s printable ASCII characters."),
            code="idempotency_key_invalid",
            field="Idempotency-Key",
            most=LONGEST,
        )


def fingerprint(*parts: bytes) -> str:
    """Of what is asked: method, address, body."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def place(who: Principal, key: str) -> dict[str, str]:
    return {
        "workspace_id": who.workspace_id,
        "owner_id": who.api_key_id or who.user_id,
        "key": key,
    }


def claim(db: Session, who: Principal, key: str, asked: str) -> Answer | None:
    """What the request with this key was answered; None if it is now the caller's to answer.

    Raises Invalid (the key was used for something else) and Conflict (it is being worked on, or its
    answer was not kept).
    """
    db.execute(delete(OnceRequest).where(OnceRequest.created_at < now() - KEPT))
    mine = place(who, key)
    row = insert(OnceRequest).values(**mine, fingerprint=asked, headers={}, created_at=now())
    if db.execute(row.on_conflict_do_nothing().returning(OnceRequest.key)).first():
        return None
    found = db.get(OnceRequest, tuple(mine.values()))
    if found is None:  # it was let go of just now
        raise Conflict(UNKNOWN, code="idempotency_in_progress")
    if found.fingerprint != asked:
        raise Invalid(REUSED, code="idempotency_key_reused", field="Idempotency-Key")
    if found.status is None:
        raise Conflict(UNKNOWN, code="idempotency_in_progress")
    if found.body is None:
        raise Conflict(NOT_KEPT, code="idempotency_answer_not_kept")
    return Answer(found.status, found.headers, found.body)


def keep(db: Session, who: Principal, key: str, answer: Answer, *, secret: bool) -> None:
    """Keep an answer for the next time; of one that holds a secret, only that there was one."""
    found = db.get_one(OnceRequest, tuple(place(who, key).values()))
    found.status = answer.status
    found.headers = {} if secret else dict(answer.headers)
    found.body = None if secret else answer.body


def let_go(db: Session, who: Principal, key: str) -> None:
    """The request did nothing: the key may be used again."""
    db.execute(delete(OnceRequest).filter_by(**place(who, key)))
