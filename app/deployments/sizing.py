"""What a model needs to be served, and what an adapter must not have. From its files' own words.

Every number here is an estimate, and shown as one; what was then measured stands on the replica.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app import storage
from app.deployments.options import QUANTIZATIONS
from app.errors import N_, Invalid
from app.models.tables import Model

MIB, GIB = 2**20, 2**30
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's --max-lora-rank takes
USUAL_LENGTH = 8192  # tokens; a longer context is served when asked for
LONG_PROMPTS = 8  # requests of full length that the cache shall hold at once
LEAST_CACHE = 256 * MIB

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


@dataclass(frozen=True)
class Shape:
    """What decides the memory of a model: read once, asked for many settings."""

    stored: int  # bytes of the files
    parameters: int
    plain: int  # of these, those that no quantisation touches: embeddings and the head
    beside: int  # bytes of an adapter served on it
    per_token: int  # bytes of cache for a token, in 16-bit numbers; 0 where the config is silent

    @classmethod
    def of(cls, base: Model, adapter: Model | None) -> "Shape":
        config = read_json(base, "config.json")
        text = inner(config)
        tables = 1 if text.get("tie_word_embeddings") else 2
        return cls(
            stored=base.size,
            parameters=base.parameters or 0,
            plain=tables * number(text, "vocab_size") * number(text, "hidden_size"),
            beside=adapter.size if adapter else 0,
            per_token=per_token(config),
        )

    def weights(self, engine: str, quantization: str = "") -> int:
        """Bytes. vLLM loads 16-bit weights, whatever the files hold; transformers as they are."""
        if quantization:
            plain = min(self.plain, self.parameters)
            each = QUANTIZATIONS[quantization]
            return round(2 * plain + each * (self.parameters - plain)) + self.beside
        if engine == "vllm" and self.parameters:
            return min(self.stored or 2 * self.parameters, 2 * self.parameters) + self.beside
        return self.stored + self.beside

    def cache(self, max_model_len: int, requests: int, bytes_each: int = 2) -> int:
        """Bytes for so many requests of full length, in whole MiB; at least 256 MiB.

        1 GiB for a model whose config says nothing about its layers.
        """
        if not self.per_token:
            return GIB
        wanted = max(LEAST_CACHE, requests * max_model_len * self.per_token * bytes_each // 2)
        return -(-wanted // MIB) * MIB


def estimate(
    base: Model,
    adapter: Model | None,
    *,
    engine: str,
    max_model_len: int,
    devices: int = 1,
    memory: int | None = None,
    quantization: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> Estimate:
    """What an engine needs for `base`, with `adapter` beside it where one is given."""
    return needs(
        Shape.of(base, adapter),
        engine=engine,
        max_model_len=max_model_len,
        devices=devices,
        memory=memory,
        quantization=quantization,
        arguments=arguments or {},
    )


def needs(
    shape: Shape,
    *,
    engine: str,
    max_model_len: int,
    devices: int,
    memory: int | None,
    quantization: str,
    arguments: Mapping[str, Any],
) -> Estimate:
    """The same of a shape. Every device pays the overhead.

    With `memory` (bytes of each device) the cache is what the rest leaves over, and at least what
    one request of full length takes.
    """
    each = 1 if str(arguments.get("kv_cache_dtype", "")).startswith("fp8") else 2
    weights, overhead = shape.weights(engine, quantization), OVERHEAD[engine] * devices
    weights = max(0, weights - arguments.get("cpu_offload_gb", 0) * GIB * devices)
    if memory is None:
        requests = min(LONG_PROMPTS, arguments.get("max_num_seqs", LONG_PROMPTS))
        return Estimate(weights, shape.cache(max_model_len, requests, each), overhead)
    least = shape.cache(max_model_len, 1, each)
    return Estimate(weights, max(least, memory * devices - weights - overhead), overhead)


def per_token(config: dict[str, Any]) -> int:
    """Bytes of cache for one token: keys and values of every layer, two bytes each."""
    text = inner(config)
    layers, heads = number(text, "num_hidden_layers"), number(text, "num_attention_heads")
    kv_heads = number(text, "num_key_value_heads") or heads
    head = number(text, "head_dim") or number(text, "hidden_size") // max(heads, 1)
    return 2 * layers * kv_heads * head * 2


def inner(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that tells of the language model."""
    found = config.get("text_config")
    return found if isinstance(found, dict) else config


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


def check_adapter(config: dict[str, Any]) -> int:
    """The rank that vLLM must be told for an adapter with this `adapter_config.json`.

    Raises Invalid, offering the merged mode, for what vLLM would refuse or get wrong.
    """
    if why := unsupported(config):
        raise refused(why)
    return next(rank for rank in RANKS if rank >= rank_of(config))


def refused(feature: str) -> Invalid:
    return Invalid(
        N_(
            "vLLM cannot serve this adapter on its base: it uses %(feature)s. "
            "Choose “merged”, which serves the same model as one piece."
        ),
        code="adapter_unsupported",
        field="mode",
        feature=feature,
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
