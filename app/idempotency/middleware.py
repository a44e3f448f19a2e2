"""`Idempotency-Key` on a POST to `/api/v1`: the same request with the same key happens once."""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import guard
from app.accounts.auth import Principal, identify
from app.errors import DomainError
from app.idempotency import service
from app.idempotency.service import Answer
from app.queue import transaction

HEADER = "idempotency-key"
MOST = 2**20  # bytes of an answer that is kept
UNKEPT = ("content-length", "set-cookie")


class Once(guard.Middleware):
    """Answers a POST again as it was answered, or passes it on and keeps what comes back."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        key = headers.get(HEADER)
        posted = scope["method"] == "POST" and scope["path"].startswith("/api/v1/")
        who = await run_in_threadpool(known, scope) if posted and key is not None else None
        if key is None or who is None:
            await self.app(scope, receive, send)
            return
        try:
            service.check(key)
            asked, receive = await read(scope, headers, receive)
            answer = await run_in_threadpool(claim, who, key, asked)
        except DomainError as error:
            await guard.refuse(error, scope, receive, send)
            return
        except HTTPException:
            await guard.refuse(guard.too_large(guard.SMALL_BODY), scope, receive, send)
            return
        if answer is None:
            await Watched(self.app, who, key)(scope, receive, send)
        else:
            again = dict(answer.headers) | {"idempotent-replayed": "true"}
            response = Response(answer.body, answer.status, again)
            await response(scope, receive, send)


class Watched:
    """A request that is worked on. Its answer is kept before its last byte is sent: who has got it
    gets it again. An error did nothing, and a stream cannot be repeated: the key is let go.
    """

    def __init__(self, app: ASGIApp, who: Principal, key: str) -> None:
        self.app, self.who, self.key = app, who, key
        self.start: Message = {}
        self.kept = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.start = message
                return
            if self.start:
                await self.look(scope, message)
                start, self.start = self.start, {}
                await send(start)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            if not self.kept:
                await run_in_threadpool(let_go, self.who, self.key)

    async def look(self, scope: Scope, message: Message) -> None:
        """At the first piece of the body, which is all of it for what is worth keeping."""
        status, body = self.start["status"], message.get("body", b"")
        if message.get("more_body") or not 200 <= status < 300 or len(body) > MOST:
            return
        headers = {
            name: value
            for name, value in Headers(raw=self.start["headers"]).items()
            if name not in UNKEPT
        }
        secret = bool(scope["state"].get("secret"))
        await run_in_threadpool(keep, self.who, self.key, Answer(status, headers, body), secret)
        self.kept = True


def known(scope: Scope) -> Principal | None:
    """Who asks; None for somebody whom the route will refuse."""
    try:
        return identify(Request(scope))
    except DomainError:
        return None


async def read(scope: Scope, headers: Headers, receive: Receive) -> tuple[str, Receive]:
    """The fingerprint of a request, and its body to be read again. Of a form with files, which is
    not held in memory, the length stands for the content.
    """
    parts = [scope["path"].encode(), scope["query_string"]]
    if headers.get("content-type", "").startswith("multipart/"):
        return service.fingerprint(*parts, headers.get("content-length", "").encode()), receive
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        pieces.append(message.get("body", b""))
        more = bool(message.get("more_body"))
    body = b"".join(pieces)
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return service.fingerprint(*parts, body), again


# -- units of work -----------------------------------------------------------------------


def claim(who: Principal, key: str, asked: str) -> Answer | None:
    with transaction() as db:
        return service.claim(db, who, key, asked)


def keep(who: Principal, key: str, answer: Answer, secret: bool) -> None:
    with transaction() as db:
        service.keep(db, who, key, answer, secret=secret)


def let_go(who: Principal, key: str) -> None:
    with transaction() as db:
        service.let_go(db, who, key)
