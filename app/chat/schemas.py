"""What the chat page sends."""

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Of one conversation; None leaves the choice to the model's generation config."""

    model_config = ConfigDict(extra="forbid")

    system: str = Field("", max_length=20_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=131_072)


class Say(BaseModel):
    """One turn: a new message, or (`regenerate`) another answer to the last one."""

    model_config = ConfigDict(extra="forbid")

    conversation: str | None = Field(None, max_length=100)
    model: str = Field(min_length=1, max_length=200)
    content: str = Field("", max_length=200_000)
    regenerate: bool = False
    settings: Settings = Settings()
