"""Model directories for tests, made byte by byte: no torch."""

import json
import struct
from pathlib import Path
from typing import Any

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 2048}


def write_safetensors(
    path: Path, tensors: dict[str, Any] | None = None, data: bytes | None = None
) -> Path:
    """A file of one 2 x 3 float32 tensor, unless `tensors` (header entries) and `data` say otherwise."""
    if tensors is None:
        tensors = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    header = json.dumps({"__metadata__": {"format": "pt"}} | tensors).encode()
    path.write_bytes(
        struct.pack("<Q", len(header)) + header + (b"\0" * 24 if data is None else data)
    )
    return path


def write_model(directory: Path, **config: Any) -> Path:
    """A base model of six parameters."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}<b>{{ m.content }}</b>{% endfor %}"
    )
    write_safetensors(directory / "model.safetensors")
    return directory


def write_adapter(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
    write_safetensors(directory / "adapter_model.safetensors")
    return directory
