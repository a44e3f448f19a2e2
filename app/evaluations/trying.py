"""Does an endpoint elsewhere answer? One short question, before rows are sent there."""

import time
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from app import addresses, fetching
from app.accounts import user_secrets
from app.accounts.auth import Principal
from app.errors import N_, DomainError, Invalid
from app.evaluations import answers, outside
from app.evaluations.schemas import CandidateIn, Target
from app.queue import transaction

QUESTION = "Say OK."
SECONDS = 30.0
MOST = 64  # tokens of the answer: some models think first
SHOWN = 300  # characters
REASONS = {
    401: N_("%(host)s does not accept the key: %(why)s"),
    403: N_("%(host)s does not allow this: %(why)s"),
    404: N_("%(host)s has no such address or no such model: %(why)s"),
    429: N_("%(host)s answers that it is asked too much: %(why)s"),
}
OTHER = N_("%(host)s answers with status %(status)s: %(why)s")


class EndpointAsked(BaseModel):
    """An endpoint, as a candidate of the kind `endpoint` names it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    target: Target = Field(description="Its address, up to /v1.")
    model: str = Field(min_length=1, max_length=200, description="The model's name there.")
    secret: str = Field("", max_length=40, description="The id of a secret of kind openai.")


class EndpointTold(BaseModel):
    """Whether it answered, and with what; else why not."""

    works: bool
    answer: str = Field(description="What the model said; at most 300 characters.")
    milliseconds: int = Field(description="Until then; 0 where nothing answered.")
    code: str = Field(description="Why it does not work, for programs; empty if it does.")
    message: str = Field(description="The same as a sentence.")


def ask(who: Principal, asked: EndpointAsked) -> tuple[str, int]:
    """What the model answered, and after how many milliseconds. Raises DomainError with the reason
    where it did not; one of a field names it. No session is held meanwhile.
    """
    one = CandidateIn(kind="endpoint", **asked.model_dump())
    try:
        with transaction() as db:
            outside.check(db, who, [one])
            key = ""
            if one.secret:
                key = user_secrets.use(db, one.secret, outside.SECRET, who.workspace_id)
    except DomainError as error:
        error.field = (error.field or "").rpartition(".")[2]
        raise
    url, _, _ = outside.choose(one)
    body = {
        "model": one.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MOST,
        "temperature": 0.0,
    }
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    began = time.monotonic()
    status, said = fetching.exchange(
        f"{url}/chat/completions",
        orjson.dumps(body),
        limit=outside.LARGEST,
        seconds=SECONDS,
        silence=SECONDS,
        headers=headers,
    )
    milliseconds = round(1000 * (time.monotonic() - began))
    return text_of(addresses.parse(url).host, status, said, key), milliseconds


def text_of(host: str, status: int, said: bytes, key: str) -> str:
    """Raises Invalid with what it said instead of an answer."""
    try:
        answer: Any = orjson.loads(said)
    except orjson.JSONDecodeError:
        answer = said[: 4 * SHOWN].decode(errors="replace")
    found = answers.of_chat(0, status, answer)
    if found.text is not None:
        return found.text[:SHOWN]
    why = str((found.error or {}).get("message") or "")
    if key:
        why = why.replace(key, "…")
    message = REASONS.get(status, OTHER)
    why = why[:SHOWN] or "-"
    raise Invalid(message, code="endpoint_refuses", host=host, status=status, why=why)
