"""JSON: tokens of other services, one's own and the workspace's. Written, tested, never read back."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.accounts import user_secrets
from app.accounts.auth import Principal, requires
from app.accounts.tables import UserSecret
from app.paging import After, Limit, page
from app.queue import Db

router = APIRouter(prefix="/api/v1/secrets", tags=["secrets"])
Member = Annotated[Principal, requires("member", "account")]


class SecretIn(BaseModel):
    """A token of another service."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(
        max_length=40, description="huggingface, modelscope, wandb, swanlab, mlflow, openai"
    )
    name: str = Field("", max_length=60, description="By default the service's")
    value: SecretStr = Field(max_length=600, description="The token; it is never shown again")
    shared: bool = Field(False, description="Of the workspace, for all its members; admins only")


class SecretChange(BaseModel):
    """A new token in the place of an old one."""

    model_config = ConfigDict(extra="forbid")

    value: SecretStr = Field(max_length=600, description="The new token")


class SecretOut(BaseModel):
    """A secret, without its value."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str
    name: str
    tail: str = Field(description="The last characters of the token")
    shared: bool = Field(description="Of the workspace rather than of one person")
    created_at: datetime
    used_at: datetime | None
    checked: dict[str, Any] | None = Field(
        description="What the last test found: at, account or message"
    )

    @classmethod
    def of(cls, row: UserSecret) -> "SecretOut":
        names = ("id", "kind", "name", "tail", "created_at", "used_at", "checked")
        return cls(**{name: getattr(row, name) for name in names}, shared=row.user_id is None)


class SecretList(BaseModel):
    """Secrets that you may use, your own first."""

    data: list[SecretOut]
    has_more: bool


@router.get("")
def list_secrets(who: Member, db: Db, after: After = "", limit: Limit = 100) -> SecretList:
    """Your own and the workspace's, without their values."""
    rows, more = page(user_secrets.every(db, who), after, limit)
    return SecretList(data=[SecretOut.of(row) for row in rows], has_more=more)


@router.post("", status_code=201)
def create_secret(body: SecretIn, who: Member, db: Db) -> SecretOut:
    """Keep a token, sealed."""
    value = body.value.get_secret_value()
    more = body.model_dump(exclude={"value"})
    return SecretOut.of(user_secrets.create(db, who, value=value, **more))


@router.put("/{secret_id}")
def replace_secret(secret_id: str, body: SecretChange, who: Member, db: Db) -> SecretOut:
    """A new token in its place; what uses it goes on with the new one."""
    value = body.value.get_secret_value()
    return SecretOut.of(user_secrets.replace(db, who, secret_id, value))


@router.post("/{secret_id}/test")
def test_secret(secret_id: str, who: Member) -> SecretOut:
    """Ask the service whom the token stands for; the answer is in `checked`."""
    return SecretOut.of(user_secrets.test(who, secret_id))


@router.delete("/{secret_id}", status_code=204)
def delete_secret(secret_id: str, who: Member, db: Db) -> None:
    """Forget it. What is under way and still needs it fails."""
    user_secrets.remove(db, who, secret_id)
