"""JSON: what is used of an API key's limits."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from app.accounts import keys
from app.accounts.auth import Principal, requires
from app.gateway import key_usage
from app.queue import Db

router = APIRouter(prefix="/api/v1/keys", tags=["accounts"])


class Use(BaseModel):
    """Of one limit: what is used by now, and how much is allowed."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    used: int
    limit: int | None


@router.get("/{key_id}/usage", name="api:usage:of_key")
def usage(
    key_id: str, who: Annotated[Principal, requires("viewer", "account")], db: Db
) -> dict[str, list[Use]]:
    """Of each limit that the key has; tokens of the day (UTC) and in all also without a limit."""
    lines = key_usage.of_key(db, keys.get_api_key(db, who, key_id))
    return {"data": [Use.model_validate(line) for line in lines]}
