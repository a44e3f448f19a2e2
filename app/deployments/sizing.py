"""What a model needs to be served, and what an adapter must not have. From its files' own words.

Every number here is an estimate, and shown as one; what was then measured stands on the replica.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from app import storage
from app.errors import N_, Invalid
from app.models.tables import Model

MIB, GIB = 2**20, 2**30
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's --max-lora-rank takes
USUAL_LENGTH = 8192  # tokens; a longer context is served when asked for
LONG_PROMPTS = 8  # requests of full length that the cache shall hold at once

# Bytes beside weights and cache: interpreters, libraries, activations. Measured with models of
# 4M and 221M parameters: three vLLM processes hold 1.6 GiB, transformers 0.7 GiB.
OVERHEAD = {"vllm": int(1.75 * GIB), "transformers": GIB}


@dataclass(frozen=True)
class Estimate:
    """Bytes that one replica is expected to need, on all its devices together."""

    weights: int
    cache: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.overhead

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    base: Model, adapter: Model | None, *, engine: str, max_model_len: int, devices: int = 1
) -> Estimate:
    """What an engine needs for `base`, with `adapter` beside it where one is given.

    vLLM loads 16-bit weights, whatever the files hold; transformers loads them as they are.
    Every device pays the overhead.
    """
    weights = base.size
    if engine == "vllm" and base.parameters:
        weights = min(base.size or 2 * base.parameters, 2 * base.parameters)
    return Estimate(
        weights=weights + (adapter.size if adapter else 0),
        cache=cache_bytes(read_json(base, "config.json"), max_model_len),
        overhead=OVERHEAD[engine] * devices,
    )


def cache_bytes(config: dict[str, Any], max_model_len: int) -> int:
    """The key-value cache for a few requests of full length, in whole MiB; at least 256 MiB.

    1 GiB for a model whose config says nothing about its layers.
    """
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    layers, heads = number(text, "num_hidden_layers"), number(text, "num_attention_heads")
    kv_heads = number(text, "num_key_value_heads") or heads
    head = number(text, "head_dim") or number(text, "hidden_size") // max(heads, 1)
    per_token = 2 * layers * kv_heads * head * 2  # keys and values, two bytes each
    if not per_token:
        return GIB
    wanted = max(256 * MIB, LONG_PROMPTS * max_model_len * per_token)
    return -(-wanted // MIB) * MIB


def number(config: dict[str, Any], name: str) -> int:
    """A positive whole number of the config; 0 for anything else."""
    value: Any = config.get(name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value > 0 else 0


def read_json(model: Model, name: str) -> dict[str, Any]:
    """A small JSON file of the model; empty if it is not there or no object."""
    try:
        value = json.loads(storage.read(model.artefact, name))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def usual_length(model: Model) -> int:
    """Tokens of context that a deployment gets when nobody says how many."""
    return min(model.context_length or 2048, USUAL_LENGTH)


def check_length(model: Model, max_model_len: int) -> None:
    if model.context_length and max_model_len > model.context_length:
        raise Invalid(
            N_(
                "%(name)s was made for at most %(most)s tokens of context. Choose %(most)s or less."
            ),
            field="max_model_len",
            name=model.name,
            most=model.context_length,
        )


# -- adapters ----------------------------------------------------------------------------


def check_adapter(why: str) -> None:
    """Raises Invalid, offering the merged mode, for what vLLM would refuse or get wrong."""
    if why:
        raise Invalid(
            N_(
                "vLLM cannot serve this adapter on its base: it uses %(feature)s. "
                "Choose “merged”, which serves the same model as one piece."
            ),
            code="adapter_unsupported",
            field="mode",
            feature=why,
        )


def rank_of(config: dict[str, Any]) -> int:
    patterns = config.get("rank_pattern")
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def unsupported(config: dict[str, Any]) -> str:
    """The first thing in an adapter's configuration that vLLM cannot serve; "" if none."""
    if config.get("peft_type") != "LORA":
        return f"peft_type {config.get('peft_type')!r}"[:60]
    if not 0 < rank_of(config) <= RANKS[-1]:
        return f"rank {rank_of(config)}"
    for name in ("use_dora", "lora_bias", "use_bdlora", "use_qalora", "alora_invocation_tokens"):
        if config.get(name):
            return name
    for name in ("layer_replication", "modules_to_save", "trainable_token_indices"):
        if config.get(name):
            return name
    if config.get("target_parameters"):
        return "target_parameters"
    if config.get("bias") not in (None, "none"):
        return "bias"
    start = config.get("init_lora_weights")
    plain = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
    if isinstance(start, str) and start.lower() not in plain:
        return f"init_lora_weights {start!r}"[:60]
    return ""
