"""How a node changes rows: here, or, where it has joined a platform elsewhere, there.

A joined node's database role reads the rows of that node and changes none. What a run or an engine
comes to is carried out by the platform, which looks first whether it is that node's (`calls`).
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import httpx
from pydantic import BaseModel, ConfigDict, create_model
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.config import settings
from app.errors import N_, DomainError, Forbidden
from app.queue import transaction

P = ParamSpec("P")
R = TypeVar("R")
Function = Callable[..., Any]
PATH = "/api/v1/node/calls/"
REMOVED = "node_removed"
CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


class Away(OperationalError):
    """The platform does not answer: as when the database is away, the caller tries again."""

    def __init__(self, why: Exception) -> None:
        super().__init__("the platform does not answer", None, why)


class Removed(Forbidden):
    """This node may not work for the platform any more."""

    code = REMOVED


GONE = N_(
    "This node was removed from the platform, or another machine has joined under its name. "
    "To let it work again, make a new token on the page of nodes and run `danlu node join` here."
)


def do(function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a transaction. Raises what it raises, `Away` and `Removed`."""
    if settings.server:
        found: R = ask(function, args, kwargs)
        return found
    with transaction() as db:
        return function(db, *args, **kwargs)


# -- on the wire -------------------------------------------------------------------------


def name_of(function: Function) -> str:
    return f"{function.__module__}.{function.__qualname__}".removeprefix("app.")


@cache
def shapes(function: Function) -> tuple[type[BaseModel], type[BaseModel]]:
    """What a function takes besides the session, and what it gives, as its annotations say."""
    hints = get_type_hints(function)
    given = hints.pop("return")
    hints.pop("db")
    code = function.__code__
    defaults = dict(
        zip(
            reversed(code.co_varnames[: code.co_argcount]),
            reversed(function.__defaults__ or ()),
            strict=False,
        )
    ) | (function.__kwdefaults__ or {})
    fields: dict[str, Any] = {name: (hint, defaults.get(name, ...)) for name, hint in hints.items()}
    return (
        create_model("Taken", __config__=CONFIG, **fields),
        create_model("Given", __config__=CONFIG, value=(given, ...)),
    )


@lru_cache
def client() -> httpx.Client:
    return httpx.Client(
        base_url=settings.server,
        headers={"authorization": f"Bearer {settings.node_key}"},
        timeout=httpx.Timeout(60, connect=5),
        trust_env=True,
    )


def ask(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    taken, given = shapes(function)
    body = taken(**dict(zip(taken.model_fields, args, strict=False)), **kwargs)
    try:
        answer = client().post(
            PATH + name_of(function),
            content=body.model_dump_json().encode(),
            headers={"content-type": "application/json"},
        )
    except httpx.HTTPError as error:
        raise Away(error) from error
    if answer.is_success:
        return given.model_validate_json(answer.content).value  # type: ignore[attr-defined]
    raise refusal(answer)


def refusal(answer: httpx.Response) -> Exception:
    """The error that an answer stands for."""
    try:
        said: dict[str, Any] = answer.json()
    except ValueError:
        said = {}
    if said.get("code") == REMOVED:
        return Removed(GONE)
    if answer.status_code >= 500 or (
        answer.status_code in (401, 403, 404, 408, 413, 429) and not said
    ):
        return Away(RuntimeError(f"HTTP {answer.status_code}"))
    return DomainError(str(said.get("detail") or answer.status_code), code=said.get("code"))
