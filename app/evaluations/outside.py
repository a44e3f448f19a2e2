"""Models elsewhere, behind an OpenAI-compatible endpoint: asked with a sealed key.

The address is a user's, so it is guarded as all of those are (`app.addresses`): only public ones,
or what `DANLU_FETCH_ALLOW` names, and no redirect is followed.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import addresses, fetching
from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.addresses import Interrupted
from app.config import settings
from app.errors import N_, Conflict, DomainError, Invalid, TooMany, Unavailable
from app.evaluations.asking import HeldEvaluation, RowAsking
from app.evaluations.prompts import Question
from app.evaluations.schemas import CandidateIn
from app.evaluations.tables import Candidate, Evaluation
from app.gateway.batches.lines import Line
from app.queue import transaction

SECRET = "openai"  # noqa: S105 - a kind of secret
AT_ONCE = 8
SECONDS, SILENCE = 600.0, 300.0  # of one answer; an endpoint says nothing while its model thinks
LARGEST = 4 * 2**20  # bytes of an answer
REFUSING = (401, 403, 404)  # whatever is asked
BUSY = N_("%(host)s answers that it is asked too much (status %(status)s).")
REFUSES = N_("%(host)s refuses to answer (status %(status)s): %(why)s")


def check(db: Session, who: Principal, wanted: Sequence[CandidateIn]) -> None:
    """Of those that are elsewhere. Raises Invalid and NotFound, naming the field."""
    for at, one in enumerate(wanted):
        given = one.model or one.secret or one.per_minute
        if one.kind != "endpoint":
            if given:
                raise Invalid(
                    N_("Only an endpoint has a model, a secret and a limit of its own."),
                    field=f"candidates.{at}.kind",
                )
            continue
        if not one.model:
            raise Invalid(
                N_("Name the model that is asked there."),
                code="missing",
                field=f"candidates.{at}.model",
            )
        try:
            addresses.parse(one.target)
        except DomainError as error:
            error.field = f"candidates.{at}.target"
            raise
        if one.secret:
            try:
                user_secrets.find(db, who, one.secret, SECRET)
            except DomainError as error:
                error.field = f"candidates.{at}.secret"
                raise


def choose(one: CandidateIn) -> tuple[str, str, None]:
    """Its address without what we add to it, and a label."""
    target = addresses.parse(one.target)
    url = target.url.rstrip("/").removesuffix("/chat/completions")
    return url, f"{one.model} · {target.host}", None


def key_of(evaluation: Evaluation, one: Candidate) -> str:
    """The token, or nothing where none is needed. Raises NotFound, sealing.WrongKey."""
    if not one.secret_id:
        return ""
    with transaction() as db:
        return user_secrets.use(db, one.secret_id, SECRET, evaluation.workspace_id)


class EndpointAsking(RowAsking):
    """All rows that an endpoint has not answered: a few at a time, no faster than it may be asked,
    and again after a while where it says that this is too much.
    """

    def __init__(
        self,
        hold: HeldEvaluation,
        candidate: Candidate,
        questions: Iterator[tuple[int, Question]],
        key: str,
    ) -> None:
        super().__init__(hold, candidate, candidate.served_name, questions)
        self.url = f"{candidate.target}/chat/completions"
        self.host = addresses.parse(candidate.target).host
        self.headers = {"content-type": "application/json"}
        if key:
            self.headers["authorization"] = f"Bearer {key}"
        self.gap = 60 / candidate.per_minute if candidate.per_minute else 0.0
        self.next_at = 0.0

    async def allowed(self) -> int:
        return min(AT_ONCE, settings.batch_concurrency)

    async def reply(self, line: Line) -> tuple[int, str, bytes]:
        at = max(time.monotonic(), self.next_at)
        self.next_at = at + self.gap
        await asyncio.sleep(at - time.monotonic())
        status, answer = await run_in_threadpool(self.post, orjson.dumps(line.body))
        if status == 429:
            raise TooMany(BUSY, retry_after=1, host=self.host, status=status)
        if status == 503:
            raise Unavailable(BUSY, retry_after=1, host=self.host, status=status)
        if status in REFUSING:
            raise Conflict(
                REFUSES,
                code="endpoint_refuses",
                host=self.host,
                status=status,
                why=answer[:300].decode(errors="replace") or "-",
            )
        return status, "", answer

    def post(self, body: bytes) -> tuple[int, bytes]:
        return fetching.exchange(
            self.url, body, limit=LARGEST, seconds=SECONDS, silence=SILENCE, headers=self.headers
        )

    def refused(self, line: Line, error: DomainError) -> None:
        """Before anything was answered a refusal is of all; and what breaks off on the same row time
        and again is the row's.
        """
        fatal = error.code == "endpoint_refuses" or isinstance(error, addresses.Refused)
        if fatal and self.fresh:
            told: dict[str, Any] = {"code": error.code, "message": error.message}
            self.refusal = told | {"params": error.params}
        elif isinstance(error, Interrupted) and not self.again(line):
            self.finish(self.unasked(line, error))
        else:
            super().refused(line, error)
