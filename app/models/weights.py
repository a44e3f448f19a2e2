"""What a model's files say about themselves, read without torch and without trust.

Only `config.json` (or `adapter_config.json`) and the headers of safetensors files are read. A header
is a length, then JSON that names each tensor's type, shape and place; a file whose header lies
is refused here, before any engine maps it. Formats that can run code are refused by name.
"""

import json
import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import N_, Invalid

# Bits per element of each type that safetensors knows.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
# Architectures that can be exported as GGUF, and what llama.cpp calls them.
GGUF = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
MAX_CONFIG = 4_000_000
MAX_FILES = 2000
RUNS_CODE = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
    ".py",
    ".so",
}
ARCHITECTURE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}\Z")
NO_HEADER = N_("“%(file)s” is not a sound safetensors file: its header cannot be read.")
LONG_HEADER = N_("“%(file)s” is not a sound safetensors file: its header is longer than the file.")
BAD_TENSOR = N_(
    "“%(file)s” is not a sound safetensors file: shape and place of “%(tensor)s” do not agree."
)
BAD_LAYOUT = N_("“%(file)s” is not a sound safetensors file: its tensors overlap or leave gaps.")


def inspect(directory: Path) -> dict[str, Any]:
    """Facts of the model in `directory`.

    `architecture` ("" for an adapter), `parameters`, `context_length` in tokens (0 if not said),
    `size` in bytes of all files, `adapter` (bool), `templated` (bool): whether there is a chat
    template. Raises Invalid with a sentence about the file.
    """
    files = listed(directory)
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise Invalid(
            N_("There are no weights here: a model needs at least one .safetensors file.")
        )
    adapter = (directory / "adapter_config.json").is_file()
    config = read_json(directory / ("adapter_config.json" if adapter else "config.json"))
    if "auto_map" in config:
        raise Invalid(
            N_("config.json names code of its own (auto_map). Models that bring code are refused.")
        )
    check_index(directory)
    return {
        "architecture": "" if adapter else architecture(config),
        "parameters": sum(parameters(path) for path in weights),
        "context_length": context_length(config),
        "size": sum(path.stat().st_size for path in files),
        "adapter": adapter,
        "templated": templated(directory),
    }


def templated(directory: Path) -> bool:
    """Whether the files bring a chat template, in either of the two places."""
    if (directory / "chat_template.jinja").is_file():
        return True
    try:
        return bool(read_json(directory / "tokenizer_config.json").get("chat_template"))
    except Invalid:
        return False


def listed(directory: Path) -> list[Path]:
    """Every file below `directory`: plain files only, none in a format that can run code."""
    found = []
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise Invalid(N_("“%(file)s” is a link or not a plain file."), file=name)
        if path.suffix.lower() in RUNS_CODE:
            raise Invalid(
                N_(
                    "“%(file)s” is in a format that can run code. Convert the model to safetensors."
                ),
                file=name,
            )
        found.append(path)
        if len(found) > MAX_FILES:
            raise Invalid(N_("A model of more than %(limit)s files is refused."), limit=MAX_FILES)
    return found


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Invalid(N_("The file “%(file)s” is missing."), file=path.name)
    if path.stat().st_size > MAX_CONFIG:
        raise Invalid(N_("The file “%(file)s” is too large."), file=path.name)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Invalid(N_("The file “%(file)s” is not valid JSON."), file=path.name) from None
    if not isinstance(value, dict):
        raise Invalid(N_("The file “%(file)s” must hold a JSON object."), file=path.name)
    return value


def architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not ARCHITECTURE.match(name):
        raise Invalid(N_("config.json does not say which architecture the model has."))
    return name


def context_length(config: dict[str, Any]) -> int:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        value = part.get("max_position_embeddings")
        if value is not None:
            if type(value) is not int or not 0 < value < 2**31:
                raise Invalid(
                    N_("config.json has a max_position_embeddings that is not a positive number.")
                )
            return value
    return 0


def check_index(directory: Path) -> None:
    """Sharded weights must all be there, under plain names."""
    path = directory / "model.safetensors.index.json"
    if not path.exists():
        return
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict):
        raise Invalid(N_("The file “%(file)s” is not valid JSON."), file=path.name)
    for name in shards.values():
        plain = isinstance(name, str) and name == Path(name).name and "\0" not in name
        if not plain or not (directory / name).is_file():
            raise Invalid(N_("The file “%(file)s” is missing."), file=str(name)[:100])


def parameters(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    return sum(math.prod(tensor.shape) for tensor in tensors(path).values())


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: its bytes stand at `begin` up to `end` of the file."""

    dtype: str
    shape: list[int]
    begin: int
    end: int


def tensors(path: Path) -> dict[str, Entry]:
    """The header of a safetensors file, which must account for each byte. Raises Invalid."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise Invalid(LONG_HEADER, file=path.name)
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid(NO_HEADER, file=path.name) from None
    if not isinstance(header, dict):
        raise Invalid(NO_HEADER, file=path.name)
    header.pop("__metadata__", None)
    found, start = {}, 8 + length
    for name, tensor in header.items():
        count, begin, end = extent(tensor)
        if count < 0:
            raise Invalid(BAD_TENSOR, file=path.name, tensor=name[:100])
        found[name] = Entry(tensor["dtype"], tensor["shape"], start + begin, start + end)
    at = start
    for entry in sorted(found.values(), key=lambda one: (one.begin, one.end)):
        if entry.begin != at:
            raise Invalid(BAD_LAYOUT, file=path.name)
        at = entry.end
    if at != size:
        raise Invalid(BAD_LAYOUT, file=path.name)
    return found


def extent(tensor: Any) -> tuple[int, int, int]:
    """(elements, begin, end) of one header entry; (-1, 0, 0) if it contradicts itself."""
    wrong = (-1, 0, 0)
    if not isinstance(tensor, dict):
        return wrong
    bits, shape, place = (tensor.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(bits, str) or bits not in BITS:
        return wrong
    if not isinstance(shape, list) or len(shape) > 16 or not whole(shape):
        return wrong
    if not isinstance(place, list) or len(place) != 2 or not whole(place):
        return wrong
    count = math.prod(shape)
    if place[1] - place[0] != (count * BITS[bits] + 7) // 8:
        return wrong
    return count, place[0], place[1]


def whole(numbers: list[Any]) -> bool:
    return all(type(number) is int and 0 <= number < 2**48 for number in numbers)
