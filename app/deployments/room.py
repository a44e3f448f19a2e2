"""How much room an engine keeps for adapters that are loaded while it runs."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.deployments import sizing
from app.deployments.revisions import Settings
from app.deployments.tables import Deployment
from app.errors import N_
from app.models.tables import Model

MOST = 64  # adapters that one engine may carry
AT_ONCE = 8  # of which at most so many take part in one step
RANK = 32  # that there is room for at least


@dataclass(frozen=True)
class Room:
    adapters: int  # besides the engine's own model; 0: none can be loaded
    rank: int  # the largest, a value that vLLM takes


NONE = Room(0, 0)


def of(
    db: Session, workspace_id: str, base: Model, adapter: Model | None, asked: int | None
) -> Room:
    """Room for the adapters that `base` may get in this workspace; `asked` is how many, if said.

    Left to us there is none where the matrices of a single adapter are large beside the weights,
    as with mixtures of many experts.
    """
    known = db.scalars(
        select(Model).where(
            Model.base_id == base.id,
            Model.kind == "adapter",
            Model.deleted_at.is_(None),
            or_(Model.workspace_id == workspace_id, Model.workspace_id.is_(None)),
        )
    ).all()
    rank = max([RANK, *(rank_of(one) for one in [*known, *([adapter] if adapter else [])])])
    each = matrices(base, rank)
    if asked == 0 or (asked is None and each > spare(base)):
        return NONE
    adapters = MOST if asked is None else asked
    return Room(adapters, rank)


def at_once(base: Model, adapters: int, rank: int) -> int:
    """How many take part in one step of an engine; requests of others wait for the next."""
    return max(1, min(adapters, AT_ONCE, spare(base) // max(matrices(base, rank), 1)))


def cache_beside(base: Model, settings: Settings, adapters: int, rank: int) -> int:
    """Bytes of cache, with the room for adapters taken out of it: what an engine needs in all stays
    as estimated. Never less than one request of full length takes.
    """
    cache = settings.estimate.get("cache", 2**30)
    if not adapters:
        return cache
    least = sizing.Shape.of(base, None).cache(settings.max_model_len, 1)
    kept = matrices(base, rank) * at_once(base, adapters, rank)
    return max(min(cache, least), cache - kept)


def spare(base: Model) -> int:
    """Bytes that adapters may take beside the base: a quarter of it, and 64 MiB of a small one."""
    return max(base.size // 4, 64 * sizing.MIB)


def give_up(deployment: Deployment, error: dict[str, Any]) -> dict[str, Any]:
    """The engine cannot load adapters for this kind of model: it starts again without room."""
    if deployment.mode == "adapter":
        return error | {"permanent": True, "advice": N_("Deploy it again in the mode “merged”.")}
    deployment.adapters = deployment.adapter_rank = 0
    return error


def rank_of(adapter: Model) -> int:
    """The rank to start vLLM with for this adapter; 0 for one that it cannot serve."""
    config = sizing.read_json(adapter, "adapter_config.json")
    if sizing.unsupported(config):
        return 0
    return sizing.check_adapter(config)


def matrices(base: Model, rank: int) -> int:
    """Bytes of one adapter of `rank` on every linear layer, 16 bits a number. An estimate."""
    config = sizing.read_json(base, "config.json")
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    hidden, heads = (sizing.number(text, name) for name in ("hidden_size", "num_attention_heads"))
    head = sizing.number(text, "head_dim") or hidden // max(heads, 1)
    kv = (sizing.number(text, "num_key_value_heads") or heads) * head
    experts = next(
        (n for name in ("num_experts", "num_local_experts", "n_routed_experts")
         if (n := sizing.number(text, name))), 0,
    )  # fmt: skip
    wide = sizing.number(text, "intermediate_size")
    wide = experts * (sizing.number(text, "moe_intermediate_size") or wide) if experts else wide
    attention = 2 * (hidden + heads * head) + 2 * (hidden + kv)
    layers = sizing.number(text, "num_hidden_layers") * (attention + 3 * (hidden + wide))
    return 2 * rank * (layers + 2 * (hidden + sizing.number(text, "vocab_size")))
