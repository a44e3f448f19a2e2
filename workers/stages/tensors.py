"""Tensors of safetensors files, a piece at a time: neither the model nor a tensor is held whole.

Only torch is imported, and only where numbers are looked at: what stays as it is goes from file to
file inside the kernel.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import N_, Invalid
from app.models import weights
from workers.stages import models
from workers.stages.run import StageError, say

SHARD = 5 * 10**9  # bytes of tensors in one file
PIECE = 16 * 2**20  # bytes of a tensor looked at together
PLAIN = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass
class Tensor:
    """A tensor as a file has it, under the name that it goes by from here on."""

    name: str
    file: Path
    dtype: str  # as safetensors spells it
    shape: list[int]
    begin: int  # its bytes in the file
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def listed(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises StageError when its header lies."""
    try:
        found = weights.tensors(path)
    except Invalid as error:
        raise StageError(
            "bad_model",
            N_("%(file)s of the model cannot be read: %(reason)s"),
            file=path.name,
            reason=error,
        ) from error
    return {name: Tensor(name, path, **vars(entry)) for name, entry in found.items()}


def read_base(base: Path) -> list[Tensor]:
    """Every tensor of a model, in the order of its files. Raises StageError."""
    index = base / "model.safetensors.index.json"
    names = sorted(set(models.read(index)["weight_map"].values())) if index.exists() else None
    files = [base / Path(name).name for name in names] if names else base.glob("*.safetensors")
    tensors = []
    for path in sorted(files):
        if not path.is_file():
            raise StageError(
                "bad_model", N_("A file of the model is missing: %(file)s"), file=path.name
            )
        for tensor in sorted(listed(path).values(), key=lambda one: one.begin):
            if tensor.dtype not in PLAIN:
                raise StageError(
                    "quantized_base",
                    N_("The model is quantised, and such models cannot be tuned or merged here."),
                )
            tensors.append(tensor)
    return tensors


# -- reading -------------------------------------------------------------------------------


def whole(tensor: Tensor) -> Any:
    """All of it in memory, as torch has it."""
    [(_, value)] = pieces(tensor, size=tensor.size)
    return value.view(tensor.shape)


def pieces(tensor: Tensor, size: int = PIECE) -> Iterator[tuple[int, Any]]:
    """(first row, rows) of at most about `size` bytes; a vector's rows are its numbers.

    The rows of a tensor of more than two dimensions are flat. Each piece uses the memory of the
    one before.
    """
    import torch

    dtype = getattr(torch, PLAIN[tensor.dtype])
    rows = tensor.shape[0] if tensor.shape else 1
    width = tensor.size // rows if rows else 0  # bytes
    step = max(1, size // max(width, 1))
    space = bytearray(min(step, rows) * width)
    shape = (-1,) if len(tensor.shape) < 2 else (-1, math.prod(tensor.shape[1:]))
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        for row in range(0, rows, step):
            part = memoryview(space)[: (min(row + step, rows) - row) * width]
            fill(file, part)
            yield row, torch.frombuffer(part, dtype=dtype).view(shape)


def fill(file: Any, space: memoryview) -> None:
    while len(space):
        count = file.readinto(space)
        if not count:
            raise OSError("the file is shorter than it was")
        space = space[count:]


# -- writing -------------------------------------------------------------------------------


def raw(values: Any) -> memoryview:
    """The bytes of a torch tensor."""
    import torch

    return memoryview(values.contiguous().flatten().view(torch.uint8).numpy())


def copy(tensor: Tensor, output: BinaryIO) -> None:
    """Its bytes to where `output` stands, without passing through this process."""
    output.flush()
    with tensor.file.open("rb") as file:
        at, left = tensor.begin, tensor.size
        while left:
            count = os.sendfile(output.fileno(), file.fileno(), at, min(left, 2**30))
            if not count:
                raise OSError("the file is shorter than it was")
            at, left = at + count, left - count
    output.seek(0, os.SEEK_END)


def write_model(
    tensors: list[Tensor], target: Path, write: Callable[[Tensor, BinaryIO], None]
) -> None:
    """Safetensors files of at most `SHARD` bytes, and their index if there are several.

    `write` puts a tensor's bytes to the end of a file: as many as the tensor has.
    """
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(one.size for one in shards[-1]) + tensor.size > SHARD:
            shards.append([])
        shards[-1].append(tensor)
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        name = name if len(shards) > 1 else "model.safetensors"
        with (target / name).open("wb") as output:
            output.write(header(shard))
            for tensor in shard:
                write(tensor, output)
        names |= {tensor.name: name for tensor in shard}
        say(f"{name}: {sum(tensor.size for tensor in shard):,} bytes")
    if len(shards) > 1:
        total = sum(tensor.size for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def header(shard: list[Tensor]) -> bytes:
    """How a file begins: the length of the header, the header (JSON). The tensors follow."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        start, end = end, end + tensor.size
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    return len(text).to_bytes(8, "little") + text
