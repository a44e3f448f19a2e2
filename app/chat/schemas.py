"""What the chat page sends and gets, as JSON at `/api/v1`."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.chat.tables import ChatMessage, Conversation
from app.db import now
from app.errors import N_

MOST_COLUMNS = 4
LONGEST_ANSWER = timedelta(hours=1)
Name = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(max_length=100)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Say = Callable[[dict[str, Any]], str]  # a stored error in the reader's language


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(Strict):
    """Of one conversation; None leaves the choice to the model's generation config."""

    system: str = Field("", max_length=20_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=100_000)
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=131_072)
    stop: list[Stop] | None = Field(None, max_length=4)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)

    def stored(self) -> dict[str, Any]:
        """Without what was left open."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


class Column(Strict):
    """One of the models that are asked side by side."""

    lane: int = Field(ge=0, lt=MOST_COLUMNS)
    model: Name


class Question(Strict):
    """A message to one or several models. With `edits` it stands beside that question, as a branch."""

    conversation: Id | None = None
    content: str = Field(max_length=200_000)
    columns: list[Column] = Field(min_length=1, max_length=MOST_COLUMNS)
    settings: Settings = Settings()
    edits: Id | None = None

    @model_validator(mode="after")
    def lanes_differ(self) -> Self:
        if len({one.lane for one in self.columns}) < len(self.columns):
            raise ValueError(N_("Two columns have the same number."))
        return self


class AskedIn(BaseModel):
    """A column, and the question that it is to answer."""

    lane: int
    question: str


class Asked(BaseModel):
    """A stored question, once for each column that is to answer it."""

    conversation: str
    title: str
    asked: list[AskedIn]


class AnswerTo(Strict):
    """Ask for an answer: the first, or another one beside it."""

    question: Id
    lane: int = Field(0, ge=0, lt=MOST_COLUMNS)
    model: Name
    settings: Settings = Settings()


class Change(Strict):
    """Of a conversation."""

    title: str | None = Field(None, min_length=1, max_length=200)
    shared: bool | None = None


class Feedback(Strict):
    """What is left out stays; null takes it back."""

    rating: Literal[1, -1] | None = None
    correction: str | None = Field(None, max_length=200_000)
    chosen_over: list[Id] = Field(default_factory=list, max_length=20)


class Shown(Strict):
    """Show another branch: the one that this message is on."""

    message: Id
    lane: int = Field(0, ge=0, lt=MOST_COLUMNS)


class Preset(Strict):
    """Settings to keep under a name."""

    name: str = Field(min_length=1, max_length=80)
    settings: Settings = Settings()


class PresetOut(BaseModel):
    """Settings that one keeps under a name."""

    id: str
    name: str
    settings: dict[str, Any]


class Presets(BaseModel):
    """The settings that one keeps, by name."""

    data: list[PresetOut]
    has_more: bool = False


class ConversationOut(BaseModel):
    """A conversation, without what was said in it."""

    id: str
    title: str
    models: list[str]
    settings: dict[str, Any]
    shared: bool
    own: bool
    created_at: datetime
    updated_at: datetime
    snippet: str = ""  # of a message that a search found

    @staticmethod
    def of(
        one: Conversation, models: list[str], user_id: str, snippet: str = ""
    ) -> "ConversationOut":
        return ConversationOut(
            id=one.id,
            title=one.title,
            models=models,
            settings=one.settings,
            shared=one.shared_at is not None,
            own=one.user_id == user_id,
            created_at=one.created_at,
            updated_at=one.updated_at,
            snippet=snippet,
        )


class Conversations(BaseModel):
    """Conversations, the last changed first."""

    data: list[ConversationOut]
    has_more: bool


class MessageOut(BaseModel):
    """A message of a conversation, with what was said of it."""

    id: str
    parent: str | None
    role: str
    content: str
    reasoning: str
    model: str
    lane: int
    state: str
    error: str
    usage: dict[str, Any]
    rating: int | None
    correction: str | None
    chosen_over: list[str]
    branches: list[str]  # this message and those that stand in its place, oldest first
    created_at: datetime

    @staticmethod
    def of(one: ChatMessage, branches: list[str], say: Say) -> "MessageOut":
        return MessageOut(
            id=one.id,
            parent=one.parent_id,
            role=one.role,
            content=one.content,
            reasoning=one.reasoning,
            model=one.model,
            lane=one.lane,
            state="stopped" if one.state == "streaming" and lost(one) else one.state,
            error=say(one.error) if one.error else "",
            usage=one.usage,
            rating=one.rating,
            correction=one.correction,
            chosen_over=one.chosen_over,
            branches=branches,
            created_at=one.created_at,
        )


def lost(one: ChatMessage) -> bool:
    """Whether the process that streamed it must have died."""
    return now() - one.created_at > LONGEST_ANSWER


class Messages(BaseModel):
    """Messages of a column, oldest first."""

    data: list[MessageOut]
    has_more: bool  # older ones


class RatedOut(BaseModel):
    """An answer that somebody judged, with the question before it."""

    id: str
    conversation: str
    title: str
    model: str
    question: str
    answer: str
    rating: int | None
    correction: str | None
    chosen_over: list[str]
    rated_at: datetime | None


class RatedList(BaseModel):
    """Rated answers, the last rated first."""

    data: list[RatedOut]
    has_more: bool


Kind = Literal["sft", "preference", "kto"]


class Wanted(Strict):
    """Which rated answers: by id, or all that match."""

    ids: list[Id] = Field(default_factory=list, max_length=1000)
    q: str = Field("", max_length=500)
    rating: Literal["", "up", "down", "corrected", "chosen"] = ""
    model: str = Field("", max_length=200)
    days: int = Field(0, ge=0, le=3650)


class DatasetFrom(Wanted):
    """A dataset of rated answers: a new one called `name`, or more rows for the draft `dataset`."""

    kind: Kind
    name: str = Field("", max_length=120)
    dataset: Id = ""


class DatasetForm(DatasetFrom):
    """The same from the page's form, where a single ticked answer comes as a text."""

    @field_validator("ids", mode="before")
    @classmethod
    def several(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class DatasetMade(BaseModel):
    """The dataset that rated answers went into."""

    dataset: str
    rows: int
    left_out: int  # rated answers that give no row of this kind


class Code(BaseModel):
    """Programs that make the call behind an answer."""

    id: str
    label: str
    text: str
