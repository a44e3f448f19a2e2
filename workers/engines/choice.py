"""Which engine runs on this node, and what the node tells the platform about both."""

from types import ModuleType
from typing import Any

from app.config import settings
from app.errors import N_, DomainError
from workers.engines import transformers, vllm

ENGINES: dict[str, ModuleType] = {vllm.NAME: vllm, transformers.NAME: transformers}


def facts() -> dict[str, Any]:
    """For the heartbeat: {vllm: {available, reason, version}, transformers: …}. Slow at first."""
    return {name: engine.available() for name, engine in ENGINES.items()}


def choose(asked: str, adapter: bool) -> ModuleType:
    """The module of the engine to start. Raises DomainError if what was asked for cannot be."""
    if asked == "auto":
        asked = settings.engine
    if asked == "auto":
        asked = "vllm" if vllm.available()["available"] else "transformers"
    engine = ENGINES[asked]
    found = engine.available()
    if not found["available"]:
        raise DomainError(
            N_("The engine %(engine)s cannot run on node %(node)s: %(reason)s."),
            code="no_engine",
            engine=asked,
            node=settings.node,
            reason=found["reason"],
        )
    if adapter and asked == "transformers":
        raise DomainError(
            N_("Only the transformers engine runs here, and it cannot serve adapters."),
            code="adapter",
        )
    return engine
