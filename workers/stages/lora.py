"""What a LoRA adapter makes of its base's weights, a tensor at a time.

Equal to peft's `merge_and_unload` to the last bit: the same operations on the same layouts in the
same types, of which only those that touch each number by itself are done in pieces.

    LoRA    W + s B A               (Hu et al. 2021); s = alpha / r, rsLoRA: alpha / sqrt(r)
    DoRA    m (W + s B A) / |W + s B A|, norms by output     (Liu et al. 2024)
    PiSSA   W minus its first r singular directions, + s B A (Meng et al. 2024); saved as it was
            trained it needs that subtraction, converted it is plain LoRA of rank 2r

A: (r, in), B: (out, r), W: (out, in), or (in, out) for Conv1D and embeddings, all in the order of
memory. Matrices are float32; W keeps its type.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import N_
from workers.stages import models, tensors
from workers.stages.run import StageError
from workers.stages.tensors import Tensor

# Fields of adapter_config.json, and the values that mean no more than the above.
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "pissa"),
    **dict.fromkeys(
        (
            "alora_invocation_tokens",
            "arrow_config",
            "ensure_weight_tying",
            "kasa_config",
            "layer_replication",
            "lora_bias",
            "monteclora_config",
            "target_parameters",
            "trainable_token_indices",
            "use_bdlora",
            "use_qalora",
        ),
        (None, False, [], {}),
    ),
}
MATRIX = re.compile(
    r"(.+)\.(?:(lora_A|lora_B)\.weight|(lora_embedding_A|lora_embedding_B)"
    r"|(lora_magnitude_vector)(?:\.weight)?)"
)
CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}  # their layers lie (in, out)
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")


@dataclass
class Change:
    """What becomes of one weight: a pair of matrices beside it, or another weight in its place."""

    scale: float = 1.0
    embedding: bool = False
    transposed: bool = False  # the weight is stored (in, out)
    pissa: bool = False
    a: Tensor | None = None  # in the adapter's file
    b: Tensor | None = None
    magnitude: Tensor | None = None
    instead: Tensor | None = None


Changes = dict[str, Change]  # by the name of the weight


def read_adapter(adapter: Path) -> Changes:
    """Raises StageError, with a name, for what could only be merged in part."""
    config = models.check_adapter(adapter)
    for name, plain in PLAIN.items():
        if name in config and config[name] not in plain:
            raise unsupported(f"{name} = {config[name]!r}")
    changes: Changes = {}
    for key, tensor in tensors.listed(adapter / "adapter_model.safetensors").items():
        if tensor.dtype not in {"F64", "F32", "F16", "BF16"}:
            raise unsupported(f"{key}: {tensor.dtype}")
        name = key.removeprefix("base_model.model.")
        found = MATRIX.fullmatch(name)
        if not found:  # modules_to_save, or an embedding saved along
            if "lora_" in name or "modules_to_save." in name:
                raise unsupported(key)
            whole = name.replace(".base_layer.", ".")
            changes.setdefault(whole, Change()).instead = tensor
            continue
        module, part = found[1], found[2] or found[3] or found[4]
        if len(tensor.shape) != (1 if part == "lora_magnitude_vector" else 2):
            raise unsupported(f"{key}: {tensor.shape}")
        change = changes.setdefault(f"{module}.weight", Change())
        if part == "lora_magnitude_vector":
            change.magnitude = tensor
        elif part.endswith("A"):
            change.a, change.embedding = tensor, part == "lora_embedding_A"
            change.scale = scale(config, module, tensor.shape[0])
            change.pissa = config.get("init_lora_weights") == "pissa" and not change.embedding
        else:
            change.b = tensor
    for name, change in changes.items():
        if not change.instead and not (change.a and change.b):
            raise unsupported(f"{name}: lora_{'B' if change.a else 'A'} is missing")
        if (change.magnitude is not None) != bool(config.get("use_dora")) and change.a:
            raise unsupported(f"{name}: use_dora = {config.get('use_dora')!r}")
    return changes


def scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Alpha / rank, or alpha / sqrt(rank) for rsLoRA; patterns give single modules their own."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def unsupported(found: str) -> StageError:
    return StageError(
        "unsupported_adapter", N_("The adapter cannot be merged: it has %(found)s."), found=found
    )


# -- base and adapter together -------------------------------------------------------------


def untie(config: dict[str, Any], base: list[Tensor], changes: Changes) -> dict[str, Any]:
    """Give a tied output layer a tensor of its own where the adapter changes one end only.

    While it was trained, the adapter stood beside the embedding or beside the output layer; the
    weight they share stayed as it was. Returns the config of the result.
    """
    names = {tensor.name for tensor in base}
    embedding = next((one for one in base if one.name.endswith(EMBEDDINGS)), None)
    head = next((name for name in HEADS if name in names), HEADS[0])
    if embedding is None or not config.get("tie_word_embeddings", head not in names):
        return config
    if not {head, embedding.name} & set(changes):
        return config
    if head not in names:
        base.append(replace(embedding, name=head))
    return config | {"tie_word_embeddings": False}


def check(config: dict[str, Any], base: list[Tensor], changes: Changes) -> None:
    """Each change fits a weight of the base. Raises StageError for one without."""
    by_name = {tensor.name: tensor for tensor in base}
    for name, change in changes.items():
        tensor = by_name.get(name)
        if tensor is None:
            raise unsupported(f"{name}, which the base does not have")
        if change.a is None or change.b is None:
            assert change.instead
            found = change.instead.shape
        else:
            found = [change.b.shape[0], change.a.shape[1]]
            square = found[0] == found[1] and config.get("model_type") in CONV1D
            change.transposed = not change.embedding and (
                (square and name not in HEADS) or (found[::-1] == tensor.shape != found)
            )
            if change.embedding or change.transposed:
                found = found[::-1]
            if change.a.shape[0] != change.b.shape[1]:
                raise unsupported(f"{name}: ranks {change.a.shape[0]} and {change.b.shape[1]}")
            if change.magnitude and change.magnitude.shape != change.b.shape[:1]:
                raise unsupported(f"{name}: {change.magnitude.shape} magnitudes")
            if change.instead and change.instead.dtype != tensor.dtype:
                raise unsupported(f"{name}: {change.instead.dtype} beside {tensor.dtype}")
        if found != tensor.shape:
            raise unsupported(f"{name}: {found} beside {tensor.shape}")


def rows(tensor: Tensor, change: Change | None) -> Iterator[Any]:
    """The tensor as it is after the change, a few rows at a time, in its own type.

    Raises StageError when it is no number any more.
    """
    import torch

    if change is None:
        yield from (part for _, part in tensors.pieces(tensor))
        return
    found: Iterator[Any] = iter(())
    if change.instead:
        dtype = getattr(torch, tensors.PLAIN[tensor.dtype])
        found = (part.to(dtype) for _, part in tensors.pieces(change.instead))
        if change.a:
            tensor = change.instead  # an embedding that was saved along, with a pair beside it
    if change.a:
        found = with_magnitude(tensor, change) if change.magnitude else with_pair(tensor, change)
    for part in found:
        if not torch.isfinite(part).all():
            raise StageError(
                "bad_adapter",
                N_("The merged weights are no numbers any more: the adapter is broken (%(name)s)."),
                name=tensor.name,
            )
        yield part


def update(change: Change) -> Any:
    """The matrix s B A as it lies beside the weight, float32: what it takes is held whole."""
    assert change.a
    assert change.b
    a, b = tensors.whole(change.a).float(), tensors.whole(change.b).float()
    delta = (b @ a).mul_(change.scale)
    return delta.T if change.embedding or change.transposed else delta


def with_pair(tensor: Tensor, change: Change) -> Iterator[Any]:
    residual = without_principal(tensor, change) if change.pissa else None
    delta = update(change)
    for row, part in tensors.pieces(tensor):
        add = delta[row : row + len(part)]
        if residual is not None:
            part = residual[row : row + len(part)]  # noqa: PLW2901
        if change.embedding:  # peft rounds an embedding's part before it adds it
            add = add.to(part.dtype)
        yield (part + add).to(part.dtype)


def with_magnitude(tensor: Tensor, change: Change) -> Iterator[Any]:
    import torch

    assert change.magnitude
    magnitude = tensors.whole(change.magnitude).float()
    delta, dtype = update(change), getattr(torch, tensors.PLAIN[tensor.dtype])
    if change.pissa:
        raise unsupported("use_dora, init_lora_weights = 'pissa'")
    if delta.is_contiguous():
        for row, part in tensors.pieces(tensor):
            delta[row : row + len(part)] += part
        total = delta
    else:  # the sum lies as the weight does: norms depend on the order of memory
        total = tensors.whole(tensor).float().add_(delta)
    del delta
    if change.embedding or change.transposed:
        factor = (magnitude / torch.linalg.norm(total.T, dim=1)).view(1, -1)
        yield (total.mul_(factor)).to(dtype)
    else:
        factor = (magnitude / torch.linalg.norm(total, dim=1)).view(-1, 1)
        step = max(1, tensors.PIECE // (4 * total.shape[1]))
        for row in range(0, len(total), step):
            yield (factor[row : row + step] * total[row : row + step]).to(dtype)


def without_principal(tensor: Tensor, change: Change) -> Any:
    """What PiSSA froze: the weight without its first r singular directions.

    As peft's `pissa_init`, which runs again whenever such an adapter is loaded.
    """
    import torch

    assert change.a
    weight, rank = tensors.whole(tensor), change.a.shape[0]
    dtype = weight.dtype
    weight = weight.to(torch.float32)
    weight = weight.T if change.transposed else weight
    v, s, uh = torch.linalg.svd(weight, full_matrices=False)
    root = torch.diag(torch.sqrt(s[:rank] / change.scale))
    weight = weight - change.scale * (v[:, :rank] @ root) @ (root @ uh[:rank])
    weight = weight.to(dtype)
    return weight.T if change.transposed else weight
