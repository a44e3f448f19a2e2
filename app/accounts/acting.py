"""Who acts now, for the audit log: a person, their API key, nobody yet, or the platform itself.

A request carries one `Acting` from its first middleware on (`Actors`); whoever resolves the
principal fills it in. It is one object that threads of the same request share: a context variable set
in a dependency's thread would not be seen by the handler. Where nothing was begun (Celery, the sweep,
the node, threads of the web process) the platform acts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.guard import Middleware

if TYPE_CHECKING:
    from app.accounts.auth import Principal

SYSTEM, NOBODY, USER, KEY, SERVICE = "system", "nobody", "user", "key", "service"


@dataclass
class Acting:
    """Who, and from where."""

    kind: str = SYSTEM
    user_id: str | None = None
    name: str = ""  # the user's address, as it is now; of a service account its name
    api_key_id: str | None = None
    workspace_id: str | None = None  # in view, or the key's
    ip: str = ""
    agent: str = ""
    request_id: str = ""

    def become(self, who: "Principal") -> None:
        self.kind = SERVICE if who.is_service else KEY if who.api_key_id else USER
        self.user_id, self.name = who.user_id, who.name if who.is_service else who.email
        self.api_key_id, self.workspace_id = who.api_key_id, who.workspace_id


holder: ContextVar[Acting | None] = ContextVar("acting", default=None)


def current() -> Acting:
    return holder.get() or Acting()


def become(who: "Principal") -> None:
    """From here on `who` acts in this request. Outside of one nothing happens."""
    if acting := holder.get():
        acting.become(who)


def signed_in(user_id: str, name: str, workspace_id: str) -> None:
    """Who was nobody when this request came has proved who they are."""
    if acting := holder.get():
        acting.kind, acting.user_id, acting.name = USER, user_id, name
        acting.workspace_id = workspace_id


@contextmanager
def as_one(acting: Acting) -> Iterator[Acting]:
    """Within, `acting` acts."""
    token = holder.set(acting)
    try:
        yield acting
    finally:
        holder.reset(token)


class Actors(Middleware):
    """Whoever this request turns out to be from, `current` knows where it came from."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        by = Acting(
            kind=NOBODY,
            ip=client[0] if client else "",
            agent=Headers(scope=scope).get("user-agent", "")[:200],
            request_id=scope["state"]["request_id"],
        )
        with as_one(by):
            await self.app(scope, receive, send)
