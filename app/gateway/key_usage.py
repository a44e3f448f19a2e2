"""What is used of an API key's limits, for people to look at. A second late."""

from dataclasses import dataclass

from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from app.accounts.limits import COUNTED
from app.accounts.tables import ApiKey
from app.gateway.limits import HELD
from app.queue import redis
from app.quotas import service as quotas


@dataclass(frozen=True)
class Line:
    """One limit, by its column's name."""

    name: str
    used: int
    limit: int | None


def of_key(db: Session, key: ApiKey) -> list[Line]:
    """Each limit with what is used of it; of the day's and the total tokens also without one."""
    use = quotas.use_of_key(db, key.id)
    used = {
        "rpm": use.requests,
        "tpm": use.tokens,
        "parallel": running(key.id),
        "daily_tokens": use.today,
        "total_tokens": use.total,
    }
    lines = [Line(name, used[name], getattr(key, name)) for name in COUNTED]
    return [line for line in lines if line.limit is not None or "_" in line.name]


def running(key_id: str) -> int:
    """Requests that are open just now; 0 while nobody knows."""
    try:
        return int(redis().zcard(HELD + key_id))
    except (RedisError, OSError):
        return 0
