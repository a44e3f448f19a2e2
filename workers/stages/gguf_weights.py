"""A model as llama.cpp wants it: what its file says of the shape, and each tensor's name and form.

After llama.cpp's own `convert_hf_to_gguf.py`; names come from its package `gguf`. An architecture,
or a setting of one, that llama.cpp would compute otherwise is refused by name.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.errors import N_
from app.jobs.spec import ExportFormat
from app.models.weights import GGUF
from workers.stages import lora
from workers.stages.lora import Changes
from workers.stages.run import StageError
from workers.stages.tensors import Tensor

BIASED = {"llama", "qwen2"}  # whose attention may have biases


def unsupported(found: str) -> StageError:
    return StageError(
        "unsupported_export",
        N_(
            "The model cannot be exported as GGUF: %(found)s. Models of the kinds Llama, Mistral,"
            " Qwen2 and Qwen3 can."
        ),
        found=found,
    )


@dataclass
class Shape:
    """What of config.json matters here."""

    arch: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: dict[str, Any]  # rope_theta, rope_type, factor ...
    config: dict[str, Any]


def shape_of(config: dict[str, Any]) -> Shape:
    """Raises StageError for what llama.cpp has no match for."""
    name = (config.get("architectures") or ["?"])[0]
    arch = GGUF.get(name)
    if arch is None:
        raise unsupported(str(name))
    heads = int(config["num_attention_heads"])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": config.get("rope_theta", 10_000.0)} | rope
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] not in {"default", "linear", "yarn", "llama3"}:
        raise unsupported(f"rope_type = {rope['rope_type']!r}")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    for field, found, plain in (
        ("hidden_act", config.get("hidden_act", "silu"), {"silu"}),
        ("partial_rotary_factor", rope.get("partial_rotary_factor", 1), {1}),
        ("sliding_window", window or None, {None}),
        ("attention_bias", arch in BIASED or not config.get("attention_bias"), {True}),
    ):
        if found not in plain:
            raise unsupported(f"{field} = {config.get(field)!r}")
    return Shape(
        arch=arch,
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        rope=rope,
        config=config,
    )


def describe(writer: Any, shape: Shape, form: ExportFormat) -> None:
    """The keys that llama.cpp builds the network from."""
    from gguf import LlamaFileType, RopeScalingType

    config, rope = shape.config, shape.rope
    writer.add_block_count(shape.layers)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    types = {"f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}
    writer.add_file_type(types[form])
    writer.add_quantization_version(2)
    if rope["rope_type"] in {"linear", "yarn"}:
        writer.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope["rope_type"] == "yarn":
        known = rope.get("original_max_position_embeddings")
        writer.add_rope_scaling_orig_ctx_len(int(known or config["max_position_embeddings"]))


@dataclass
class Output:
    """A tensor of the GGUF file."""

    name: str
    shape: list[int]
    quant: Any  # gguf.GGMLQuantizationType
    source: Tensor | None
    heads: int = 0  # of a llama query or key: its rows are in another order there
    values: Any = None  # in place of a source

    @property
    def size(self) -> int:
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.quant]
        return int(math.prod(self.shape) // block * size)


def plan(shape: Shape, base: list[Tensor], form: ExportFormat) -> list[Output]:
    """The tensors of the file, in order. Raises StageError for one without a name there."""
    from gguf import GGMLQuantizationType, TensorNameMap, get_tensor_name_map
    from gguf.constants import MODEL_ARCH

    known: TensorNameMap = get_tensor_name_map(MODEL_ARCH[shape.arch.upper()], shape.layers)
    found = []
    for tensor in base:
        if tensor.name.endswith("rotary_emb.inv_freq"):
            continue
        if tensor.name in lora.HEADS and shape.config.get("tie_word_embeddings"):
            continue  # llama.cpp takes the embedding again
        name = known.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise unsupported(tensor.name)
        quant = GGMLQuantizationType.F32
        if len(tensor.shape) == 2:
            whole = form == "q8_0" and tensor.shape[1] % 32 == 0
            quant = GGMLQuantizationType.Q8_0 if whole else GGMLQuantizationType.F16
        heads = 0
        if shape.arch == "llama":
            heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(
                tensor.name.split(".")[-2], 0
            )
        found.append(Output(name, tensor.shape, quant, tensor, heads))
    if shape.rope["rope_type"] == "llama3":
        factors = llama3_factors(shape)
        found.append(
            Output("rope_freqs.weight", [len(factors)], GGMLQuantizationType.F32, None, 0, factors)
        )
    return found


def llama3_factors(shape: Shape) -> Any:
    """By how much each frequency of the rotary embedding is slowed down, float32 (head_dim / 2,).

    As transformers' `_compute_llama3_parameters`.
    """
    import numpy as np

    rope = shape.rope
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    length, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    found = []
    for i in range(0, shape.head_dim, 2):
        wave = 2 * math.pi * float(rope["rope_theta"]) ** (i / shape.head_dim)
        smooth = min(1.0, max(0.0, (length / wave - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


def content(output: Output, changes: Changes) -> Iterator[bytes]:
    """A tensor's bytes, a few rows at a time: merged, in llama.cpp's order, and rounded."""
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, quantize

    if output.source is None:
        yield output.values.tobytes()
        return
    parts = lora.rows(output.source, changes.get(output.source.name))
    if output.heads:
        # rows of a head: transformers has the two halves that turn together one after the other,
        # llama.cpp in turn
        rows = torch.cat([part.clone() for part in parts])
        order = torch.arange(len(rows)).view(output.heads, 2, -1).transpose(1, 2).flatten()
        parts = iter([rows[order]])
    for part in parts:
        values = part.float().numpy()
        if output.quant == GGMLQuantizationType.F16:
            values = np.clip(values, -65504, 65504)  # bfloat16 reaches further
        yield quantize(np.ascontiguousarray(values), output.quant).tobytes()
