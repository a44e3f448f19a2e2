"""What an engine's error asks for, as changes of the settings: each a button that makes them and
starts again.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.deployments import editing, fitting
from app.deployments.revisions import Settings
from app.deployments.tables import Deployment
from app.errors import DomainError

USUAL_REQUESTS = 256  # that vLLM works on at once, on a GPU, when nobody says how many
MEMORY = (
    "context_too_long",
    "no_cache",
    "device_busy",
    "memory_busy",
    "sampler_memory",
    "out_of_memory",
)
LEAST_LENGTH = 512  # tokens


def remedies(
    db: Session, deployment: Deployment, settings: Settings, error: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Changes of `settings`, with which the error came about, that would help: the engine's own
    word first, then what live memory says, then what needs less.
    """
    code = (error or {}).get("code")
    if code == "architecture" and deployment.mode != "adapter":
        return [{"engine": "transformers"}]
    if error is None or code not in MEMORY:
        return []
    found: list[dict[str, Any]] = []
    suggested = str((error.get("params") or {}).get("suggested") or "")
    if suggested.isdecimal() and int(suggested) >= 64:
        found.append({"max_model_len": int(suggested)})
    if code == "sampler_memory":
        requests = settings.arguments.get("max_num_seqs", USUAL_REQUESTS)
        if requests > 1:
            found.append({"arguments.max_num_seqs": max(1, requests // 4)})
    try:
        plan = editing.planned(db, deployment, settings)
    except DomainError:
        return found
    found += [fix.changes for fix in fitting.fit(db, deployment.workspace_id, plan).fixes]
    if not found:
        if not settings.quantization:
            found += [{"quantization": method} for method in plan.quantizations[:1]]
        if settings.max_model_len >= 2 * LEAST_LENGTH:
            found.append({"max_model_len": settings.max_model_len // 2})
        ever, _ = fitting.rooms(db)
        if ever.most >= 2 * settings.devices:
            found.append({"devices": 2 * settings.devices})
    return unlike(found)[: fitting.MOST_FIXES]


def unlike(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first change of each setting."""
    first: dict[tuple[str, ...], dict[str, Any]] = {}
    for changes in found:
        first.setdefault(tuple(changes), changes)
    return list(first.values())
