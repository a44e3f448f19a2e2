"""Which engine runs on this node."""

from pathlib import Path
from types import ModuleType
from typing import Any

from app.cluster.tables import Node
from app.config import settings
from app.errors import N_, DomainError
from app.queue import transaction
from workers.engines import transformers, vllm

ENGINES: dict[str, ModuleType] = {vllm.NAME: vllm, transformers.NAME: transformers}


def choose(asked: str, adapter: bool) -> ModuleType:
    """The module of the engine to start; `asked` may be auto.

    Raises DomainError if what was asked for cannot be here.
    """
    if asked == "auto":
        asked = settings.engine
    if asked == "auto":
        asked = vllm.NAME if known(vllm.NAME)["available"] else transformers.NAME
    found = known(asked)
    if not found["available"]:
        raise DomainError(
            N_("The engine %(engine)s cannot run on node %(node)s: %(reason)s."),
            code="no_engine",
            engine=asked,
            node=settings.node,
            reason=found["reason"],
        )
    if adapter and asked == transformers.NAME:
        raise DomainError(
            N_("Only the transformers engine runs here, and it cannot serve adapters."),
            code="adapter",
        )
    return ENGINES[asked]


def known(engine: str) -> dict[str, Any]:
    """What this node's heartbeat says of an engine: {available, reason}. While it has not found
    out yet, an interpreter that is there is taken to work: if not, the next try knows.
    """
    python: Path = settings.serve_python if engine == vllm.NAME else settings.train_python
    if not python.exists():
        return {"available": False, "reason": f"{python} does not exist"}
    with transaction() as db:
        node = db.get(Node, settings.node)
        facts = ((node.facts if node else {}).get("engines") or {}).get(engine)
    return facts or {"available": True, "reason": ""}
