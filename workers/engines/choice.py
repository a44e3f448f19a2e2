"""Which engine runs on this node."""

from types import ModuleType

from app.config import settings
from app.errors import N_, DomainError
from workers import inventory
from workers.engines import transformers, vllm

ENGINES: dict[str, ModuleType] = {vllm.NAME: vllm, transformers.NAME: transformers}


def choose(asked: str, adapter: bool) -> ModuleType:
    """The module of the engine to start; `asked` may be auto.

    Raises DomainError if what was asked for cannot be here.
    """
    if asked == "auto":
        asked = settings.engine
    if asked == "auto":
        asked = vllm.NAME if inventory.engine(vllm.NAME)["available"] else transformers.NAME
    found = inventory.engine(asked)
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
