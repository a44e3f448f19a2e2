"""Merge a LoRA adapter into its base: `python -m workers.stages.merge RUN_DIR`.

Tensor by tensor, so memory holds one of them and not the model: W' = W + scale * (B @ A), in
float32 and then rounded once to the type of W. That is what peft's merge_and_unload computes, to
the last bit, for every layer that LoRA puts a pair of matrices beside. Whatever else an adapter
may carry is refused by name rather than left out.
"""

import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import RunSpec
from app.models import chat_template
from workers.stages import models
from workers.stages.run import Run, StageError, disk_full, execute, quiet, say

SHARD = 5 * 10**9  # bytes
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
BYTES |= {"U8": 1, "BOOL": 1}
# Fields of adapter_config.json whose other values mean more than a pair of matrices per layer.
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(
        (
            "alora_invocation_tokens",
            "arrow_config",
            "kasa_config",
            "layer_replication",
            "lora_bias",
            "modules_to_save",
            "monteclora_config",
            "target_parameters",
            "trainable_token_indices",
            "use_bdlora",
            "use_dora",
            "use_qalora",
        ),
        (None, False),
    ),
}
MATRIX = re.compile(r"(.+)\.(lora_A|lora_B)\.weight|(.+)\.(lora_embedding_A|lora_embedding_B)")


@dataclass
class Pair:
    """What LoRA adds to one weight: (rank, in) and (out, rank)."""

    scale: float
    embedding: bool
    transposed: bool  # the weight is stored (in, out)
    a: str = ""  # names in the adapter's file
    b: str = ""


@dataclass
class Tensor:
    """A tensor of the result: where its base comes from, and what is added to it."""

    name: str
    source: str  # its name in the base
    file: Path
    dtype: str  # as safetensors spells it
    shape: list[int]
    pair: Pair | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape) * BYTES[self.dtype]


def merge(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: refuse what could only be merged in part
    assert spec.adapter
    base, adapter = Path(spec.base), Path(spec.adapter)
    say(f"Job {spec.job_id}, attempt {spec.fence}: merge")
    quiet(spec.threads)
    config = models.check_base(base)
    pairs = read_pairs(adapter)
    tensors = list(read_base(base))
    config = untie(config, tensors, pairs)
    assign(tensors, pairs)
    total = sum(tensor.size for tensor in tensors)
    if shutil.disk_usage(run.directory).free < total:
        raise disk_full()

    # -- merge
    run.total = len(tensors)
    run.enter("merge")
    say(f"{len(tensors)} tensors, {total:,} bytes; {len(pairs)} of them change")
    target = run.directory / "model"
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that was stopped
    target.mkdir()
    import torch

    torch.set_num_threads(spec.threads)
    write_model(run, tensors, adapter / "adapter_model.safetensors", target)

    # -- save: everything around the weights
    run.enter("save")
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    words = adapter if (adapter / "tokenizer_config.json").exists() else base
    models.carry_tokenizer(words, target, chat_template.load(words))
    stops = models.stop_tokens(adapter if (adapter / "generation_config.json").exists() else base)
    models.write_generation_config(base, target, stops)
    libraries = {name: version(name) for name in ("torch", "safetensors")}
    return {
        "kind": "model",
        "tensors": len(tensors),
        "merged": len(pairs),
        "bytes": total,
        "stop_token_ids": stops,
        "libraries": libraries,
    }


def opened(path: Path) -> Any:
    """A safetensors file, as a context manager. Raises StageError when it is broken."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise StageError(
            "bad_model",
            N_("%(file)s of the model cannot be read: %(reason)s"),
            file=path.name,
            reason=error,
        ) from error


# -- the adapter ---------------------------------------------------------------------------


def read_pairs(adapter: Path) -> dict[str, Pair]:
    """The adapter's pairs by the module they belong to. Raises StageError."""
    config = models.check_adapter(adapter)
    for name, plain in PLAIN.items():
        if name in config and config[name] not in plain:
            raise unsupported(f"{name} = {config[name]!r}")
    pairs: dict[str, Pair] = {}
    with opened(adapter / "adapter_model.safetensors") as file:
        for key in file.keys():  # noqa: SIM118 - no dict
            found = MATRIX.fullmatch(key.removeprefix("base_model.model."))
            if not found:
                raise unsupported(key)
            module, matrix = found.group(1) or found.group(3), found.group(2) or found.group(4)
            shape = file.get_slice(key).get_shape()
            if len(shape) != 2:
                raise unsupported(f"{key}: {shape}")
            pair = pairs.setdefault(
                module,
                Pair(0.0, "embedding" in matrix, bool(config.get("fan_in_fan_out"))),
            )
            if matrix.endswith("A"):
                pair.a, pair.scale = key, scale(config, module, shape[0])
            else:
                pair.b = key
    for module, pair in pairs.items():
        if not pair.a or not pair.b:
            raise unsupported(f"{module}: lora_{'B' if pair.a else 'A'} is missing")
    return pairs


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


# -- the base ------------------------------------------------------------------------------


def read_base(base: Path) -> Iterator[Tensor]:
    """Every tensor of the base, from the headers of its files."""
    index = base / "model.safetensors.index.json"
    names = sorted(set(models.read(index)["weight_map"].values())) if index.exists() else None
    files = [base / Path(name).name for name in names] if names else base.glob("*.safetensors")
    for path in sorted(files):
        if not path.is_file():
            raise StageError(
                "bad_model", N_("A file of the model is missing: %(file)s"), file=path.name
            )
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - no dict
                part = file.get_slice(name)
                dtype, shape = part.get_dtype(), part.get_shape()
                if dtype not in BYTES:
                    raise StageError(
                        "quantized_base",
                        N_(
                            "The model is quantised, and such models cannot be tuned or merged here."
                        ),
                    )
                yield Tensor(name, name, path, dtype, shape)


def untie(config: dict[str, Any], tensors: list[Tensor], pairs: dict[str, Pair]) -> dict[str, Any]:
    """Give a tied output layer a tensor of its own where the adapter changes one end only.

    While it was trained, the adapter stood beside the embedding or beside the output layer; the
    weight they share stayed as it was. Returns the config of the result.
    """
    names = {tensor.name for tensor in tensors}
    embedding = next((one for one in tensors if one.name.endswith("embed_tokens.weight")), None)
    if not config.get("tie_word_embeddings", "lm_head.weight" not in names) or not embedding:
        return config
    if not {"lm_head", embedding.name.removesuffix(".weight")} & set(pairs):
        return config
    if "lm_head.weight" not in names:
        tensors.append(replace(embedding, name="lm_head.weight"))
    return config | {"tie_word_embeddings": False}


def assign(tensors: list[Tensor], pairs: dict[str, Pair]) -> None:
    """Give each pair to its weight. Raises StageError for one without."""
    by_name = {tensor.name: tensor for tensor in tensors}
    for module, pair in pairs.items():
        tensor = by_name.get(f"{module}.weight")
        if tensor is None:
            raise unsupported(f"{module}, which the base does not have")
        tensor.pair = pair


# -- the result ----------------------------------------------------------------------------


def write_model(run: Run, tensors: list[Tensor], adapter: Path, target: Path) -> None:
    """Write safetensors files of at most `SHARD` bytes, and their index if there are several."""
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(one.size for one in shards[-1]) + tensor.size > SHARD:
            shards.append([])
        shards[-1].append(tensor)
    weights: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        name = name if len(shards) > 1 else "model.safetensors"
        write_shard(run, shard, adapter, target / name)
        weights |= {tensor.name: name for tensor in shard}
        say(f"{name}: {sum(tensor.size for tensor in shard):,} bytes")
    if len(shards) > 1:
        total = sum(tensor.size for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weights}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_shard(run: Run, shard: list[Tensor], adapter: Path, path: Path) -> None:
    """One file: the length of the header, the header (JSON), the tensors end to end."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        start, end = end, end + tensor.size
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with path.open("wb") as output, opened(adapter) as matrices:
        output.write(len(text).to_bytes(8, "little") + text)
        for tensor in shard:
            with opened(tensor.file) as file:
                output.write(content(file.get_tensor(tensor.source), tensor, matrices))
            run.progress(run.step + 1)


def content(weight: Any, tensor: Tensor, matrices: Any) -> memoryview:
    """The merged weight's bytes. Raises StageError when it is no number any more."""
    import torch

    if pair := tensor.pair:
        a, b = matrices.get_tensor(pair.a).float(), matrices.get_tensor(pair.b).float()
        delta = b @ a
        if pair.embedding or pair.transposed:
            delta = delta.T
        delta = delta * pair.scale
        if list(delta.shape) != tensor.shape:
            raise unsupported(f"{tensor.name}: {list(delta.shape)} beside {tensor.shape}")
        if pair.embedding:  # peft rounds an embedding's part before it adds it
            weight = weight + delta.to(weight.dtype)
        else:
            weight = (weight.float() + delta).to(weight.dtype)
        if not torch.isfinite(weight).all():
            raise StageError(
                "bad_adapter",
                N_("The merged weights are no numbers any more: the adapter is broken (%(name)s)."),
                name=tensor.name,
            )
    return memoryview(weight.contiguous().flatten().view(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(execute(merge))
