"""What the request log takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.gateway.requests.tables import LogChoice, LoggedRequest


class ChoiceIn(BaseModel):
    """What is kept of a key's requests: nothing, figures, or all that is asked and answered."""

    model_config = ConfigDict(extra="forbid")

    log: Literal["off", "metadata", "full"]
    days: Annotated[int, Field(ge=1, le=365)] = 30
    redact: bool = Field(
        True, description="Replace personal data and secrets before anything is kept"
    )


class ChoiceForm(ChoiceIn):
    """A box that is not ticked is not sent."""

    redact: bool = False


class ChoiceOut(BaseModel):
    """What is kept of a key's requests, and for how many days."""

    key: str
    log: str
    days: int | None
    redact: bool | None


class Wanted(BaseModel):
    """A filter."""

    key: Annotated[str, Field(max_length=100)] = ""
    model: Annotated[str, Field(max_length=300)] = ""
    status: Literal["", "ok", "error"] = ""
    days: Annotated[int, Field(ge=0, le=365)] = 0
    q: Annotated[str, Field(max_length=500)] = ""


class DatasetFrom(Wanted):
    """Which entries become a dataset, and what it is called."""

    name: Annotated[str, Field(max_length=120)] = ""


class RequestOut(BaseModel):
    """One entry. Text is what a client sent and a model said."""

    id: str
    at: datetime
    expires_at: datetime
    key: str
    endpoint: str
    model: str
    status: int
    completed: bool
    streamed: bool
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: int | None
    duration_ms: int
    redacted: bool
    truncated: bool = Field(description="More was said than is kept")
    request: dict[str, Any] = Field(description="The body; without text unless the key keeps all")
    answer: dict[str, Any]


class Requests(BaseModel):
    """Entries, newest first."""

    data: list[RequestOut]
    has_more: bool


class Made(BaseModel):
    """The dataset that was made of entries."""

    id: str = Field(description="Of the dataset")
    rows: int
    left_out: int = Field(description="Entries that gave no row")


def out(one: LoggedRequest) -> RequestOut:
    same = {
        name: getattr(one, name)
        for name in RequestOut.model_fields
        if name not in ("key", "request")
    }
    return RequestOut(key=one.api_key_id, request=one.asked, **same)


def choice_out(key_id: str, found: LogChoice | None) -> ChoiceOut:
    if found is None:
        return ChoiceOut(key=key_id, log="off", days=None, redact=None)
    return ChoiceOut(key=key_id, log=found.log, days=found.days, redact=found.redact)
