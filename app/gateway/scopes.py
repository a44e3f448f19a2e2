"""Whose limits a request counts against: its API key's, its member's in the workspace, and the
workspace's own. What stands in quotas is remembered for a few seconds, as keys are.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool

from app.accounts.limits import Limits
from app.queue import transaction
from app.quotas import limits as quotas

REMEMBER_SECONDS = 5.0
KEY, MEMBER, WORKSPACE = "key", "member", "workspace"
NO_LIMIT = -1


@dataclass(frozen=True, eq=False)
class Scope:
    """One who has limits; None is no limit."""

    id: str  # of the key, the workspace, or `member`
    kind: str
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    total_tokens: int | None = None
    workspace_id: str = ""
    user_id: str | None = None
    numbers: tuple[int, ...] = field(init=False)  # as the script has them
    budgeted: bool = field(init=False)  # whether tokens are counted over a long time
    holds: bool = field(init=False)  # whether it matters what runs just now

    def __post_init__(self) -> None:
        budgets = (self.daily_tokens, self.monthly_tokens, self.total_tokens)
        all_of_them = (self.rpm, self.tpm, self.parallel, *budgets)
        numbers = tuple(NO_LIMIT if one is None else one for one in all_of_them)
        budgeted = any(one is not None for one in budgets)
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "budgeted", budgeted)
        object.__setattr__(self, "holds", budgeted or self.parallel is not None)


def member(workspace_id: str, user_id: str) -> str:
    return f"{workspace_id}/{user_id}"


@lru_cache(maxsize=4096)
def of_key(key_id: str, limits: Limits) -> Scope | None:
    """None where it has no limits."""
    if not limits.counted:
        return None
    return Scope(
        key_id,
        KEY,
        limits.rpm,
        limits.tpm,
        limits.parallel,
        limits.daily_tokens,
        None,
        limits.total_tokens,
    )


# -- of quotas ---------------------------------------------------------------------------

known: dict[tuple[str, str], tuple[float, tuple[Scope, ...]]] = {}


async def of_quotas(workspace_id: str, user_id: str) -> tuple[Scope, ...]:
    """The member's and the workspace's, as far as they have limits; a change counts within
    `REMEMBER_SECONDS`. One request looks, and others meanwhile go by what was known.
    """
    key = (workspace_id, user_id)
    remembered = known.get(key)
    at = time.monotonic()
    if remembered is not None:
        if at - remembered[0] < REMEMBER_SECONDS:
            return remembered[1]
        known[key] = (at, remembered[1])
    found = await run_in_threadpool(look, workspace_id, user_id)
    if len(known) > 10_000:
        known.clear()
    known[key] = (at, found)
    return found


def look(workspace_id: str, user_id: str) -> tuple[Scope, ...]:
    with transaction() as db:
        found = quotas.tokens(db, workspace_id, user_id)
    made = []
    for whose, amounts in found.items():
        values: dict[str, Any] = {
            "tpm": amounts.get("tokens_minute"),
            "monthly_tokens": amounts.get("tokens_month"),
            "workspace_id": workspace_id,
            "user_id": whose,
        }
        if whose:
            made.append(Scope(member(workspace_id, whose), MEMBER, **values))
        else:
            made.append(Scope(workspace_id, WORKSPACE, **values))
    return tuple(made)


def ids_of(row: Mapping[str, Any]) -> list[str]:
    """Of all whose counters a row of the ledger belongs to."""
    found = [row["workspace_id"], member(row["workspace_id"], row["user_id"] or "")]
    return [*found, row["api_key_id"]] if row["api_key_id"] else found
