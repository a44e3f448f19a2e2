"""What an evaluation will take, before it starts: said to be an estimate, and stored beside what it took."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import settings as platform
from app.datasets.tables import DatasetVersion
from app.db import now
from app.deployments import aliases
from app.deployments.tables import Deployment, Replica
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.scorers.schemas import Perplexity, look_at_answers
from app.evaluations.tables import Evaluation
from app.gateway import metering
from app.quotas import prices
from app.quotas.tables import Usage

ANSWER = 64  # tokens, of an answer where nothing was ever measured
START = 90.0  # seconds of an engine's start, where none was measured
SAMPLE = 200  # requests that are looked at
UNKNOWN = 200  # tokens of a prompt in a dataset that was not measured


def estimate(
    db: Session,
    workspace_id: str,
    version: DatasetVersion,
    body: EvaluationCreate,
    rows: int,
    candidates: Sequence[tuple[str, str, str | None]],
) -> dict[str, Any]:
    """{rows, tokens, seconds, device_hours, cost, currency, measured}. `candidates`: kind, target
    and model of each. `measured`: by what the same models took before.
    """
    prompt = version.tokens / version.rows if version.tokens and version.rows else UNKNOWN
    answered = look_at_answers(body.scorers)
    read = sum(isinstance(one, Perplexity) for one in body.scorers)  # how often
    seconds = held = tokens = 0.0
    measured = True
    for kind, target, model_id in candidates:
        if kind == "answers":
            continue
        ids = deployments(db, workspace_id, kind, target, model_id)
        took, said = speed(db, ids)
        measured = measured and answered and took is not None
        said = min(said or ANSWER, body.settings.max_tokens)
        own = took if took is not None else said / metering.UNKNOWN_SPEED
        own = own * answered + read / metering.UNKNOWN_SPEED
        asking = rows * own / min(platform.batch_concurrency, max(rows, 1))
        if kind not in ("deployment", "endpoint"):
            starts = start(db, ids)
            held += starts + asking
            seconds += starts
        seconds += asking
        tokens += rows * (answered * (prompt + said) + read * prompt)
    found: dict[str, Any] = {
        "rows": rows,
        "tokens": round(tokens),
        "seconds": round(seconds),
        "device_hours": round(held / 3600, 4),
        "measured": measured,
        "at": now().isoformat(),
    }
    if held and (price := prices.of(db, "")):
        found |= {"cost": round(held / 3600 * float(price.hour), 4), "currency": price.currency}
    return found


def deployments(
    db: Session, workspace_id: str, kind: str, target: str, model_id: str | None
) -> list[str]:
    """Those whose past says how quick this candidate is."""
    query = select(Deployment.id).where(Deployment.workspace_id == workspace_id)
    if kind == "deployment":
        split = aliases.split(db, workspace_id, target)
        names = [name for name, _ in split] or [target]
        return list(db.scalars(query.where(Deployment.name.in_(names))))
    return list(db.scalars(query.where(Deployment.model_id == model_id))) if model_id else []


def speed(db: Session, ids: list[str]) -> tuple[float | None, float | None]:
    """Seconds of an answer, and its tokens, of the last that were given; None if none was."""
    last = (
        select(Usage.duration_ms, Usage.completion_tokens)
        .where(
            Usage.kind == "tokens",
            Usage.owner_kind == "deployment",
            Usage.owner_id.in_(ids),
            Usage.status == 200,
        )
        .order_by(Usage.at.desc())
        .limit(SAMPLE)
        .subquery()
    )
    took, said = db.execute(
        select(func.avg(last.c.duration_ms), func.avg(last.c.completion_tokens))
    ).one()
    return (float(took) / 1000, float(said or 0)) if took is not None else (None, None)


def start(db: Session, ids: list[str]) -> float:
    """Seconds until an engine of these was ready, the last time."""
    for took in db.scalars(
        select(Replica.took).where(Replica.deployment_id.in_(ids)).order_by(Replica.ready_at.desc())
    ):
        if took:
            return float(sum(value for value in took.values() if isinstance(value, int | float)))
    return START


def outcome(one: Evaluation) -> dict[str, Any] | None:
    """What it really took, in the estimate's words."""
    if one.started_at is None or one.finished_at is None:
        return None
    return {"seconds": round((one.finished_at - one.started_at).total_seconds())}
