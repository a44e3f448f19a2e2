"""What joining asks and answers."""

from datetime import datetime

from pydantic import BaseModel, Field


class TokenForm(BaseModel):
    """For one machine: `node` is the name it takes, or any free one."""

    node: str = Field("", max_length=40)
    minutes: int = Field(60, ge=1, le=7 * 24 * 60)


class TokenOut(BaseModel):
    """The token is told this once; `command` joins the machine that runs it."""

    token: str
    node: str | None
    expires_at: datetime
    command: str


class Join(BaseModel):
    """A machine's own name may be left out where the token has one."""

    token: str = Field(max_length=200)
    node: str = Field("", max_length=40)


class Joined(BaseModel):
    """The environment of the new node: its database role, its broker user, its key, the store."""

    environment: dict[str, str]
