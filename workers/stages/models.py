"""Directories of models and adapters: what is accepted, and what is carried over to a result.

Model files come from strangers: weights only as safetensors, no code, no pickle.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from app.errors import N_
from app.models.chat_template import ChatTemplate
from workers.stages.run import StageError

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def read(path: Path) -> dict[str, Any]:
    """A JSON object. Raises StageError when it is not there or not one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        found = error
    if not isinstance(found, dict):
        raise StageError(
            "bad_model",
            N_("%(file)s of the model cannot be read: %(reason)s"),
            file=path.name,
            reason=found if isinstance(found, Exception) else "not an object",
        )
    return found


def check_base(base: Path, *, weights: bool = True) -> dict[str, Any]:
    """The config of a model that we are willing and able to load. Raises StageError."""
    config = read(base / "config.json")
    if "auto_map" in config or config.get("trust_remote_code"):
        raise StageError(
            "remote_code", N_("The model brings its own program code, which is never run here.")
        )
    if config.get("quantization_config"):
        raise StageError(
            "quantized_base",
            N_("The model is quantised, and such models cannot be tuned or merged here."),
        )
    if not any(base.glob("*.safetensors")):
        refuse_pickle(base)
        if weights:
            raise StageError("no_weights", N_("The model has no weights in safetensors files."))
    return config


def check_adapter(adapter: Path) -> dict[str, Any]:
    """The config of a LoRA adapter in safetensors. Raises StageError."""
    config = read(adapter / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise StageError(
            "unsupported_adapter",
            N_("This is an adapter of the type %(found)s; only LoRA adapters can be used."),
            found=config.get("peft_type", "?"),
        )
    if not (adapter / "adapter_model.safetensors").is_file():
        refuse_pickle(adapter)
        raise StageError("no_weights", N_("The adapter has no weights in a safetensors file."))
    return config


def refuse_pickle(directory: Path) -> None:
    if any(next(directory.glob(pattern), None) for pattern in PICKLES):
        raise StageError(
            "pickled_weights",
            N_(
                "The weights are in pickle files, which can run code and are never opened. Convert"
                " them to safetensors."
            ),
        )


def carry_tokenizer(source: Path, target: Path, template: ChatTemplate | None) -> None:
    """The tokenizer's files as they are, and the chat template that was used, in a file."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if template:
        (target / "chat_template.jinja").write_text(template.source, "utf-8")
        if template.tool_source:
            others = target / "additional_chat_templates"
            others.mkdir(exist_ok=True)
            (others / "tool_use.jinja").write_text(template.tool_source, "utf-8")


def write_words(base: Path, target: Path, template: ChatTemplate | None, stops: list[int]) -> None:
    """What goes beside any weights of a run, its checkpoints' too: words, template, stops."""
    carry_tokenizer(base, target, template)
    write_generation_config(base, target, stops)


def stop_tokens(base: Path) -> list[int]:
    """The ids at which the model's engine stops to generate, as its own files have them."""
    for name in ("generation_config.json", "config.json"):
        if (base / name).is_file() and (found := read(base / name).get("eos_token_id")) is not None:
            return list(found) if isinstance(found, list) else [int(found)]
    return []


def write_generation_config(base: Path, target: Path, stops: list[int]) -> None:
    """The base's generation config, which stops at `stops`."""
    path = base / "generation_config.json"
    config = read(path) if path.is_file() else {}
    if not config:
        whole = read(base / "config.json")
        names = ("bos_token_id", "pad_token_id")
        config = {name: whole[name] for name in names if whole.get(name) is not None}
    if stops:
        config["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    (target / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
