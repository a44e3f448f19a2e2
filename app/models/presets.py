"""Well-known open models: what their publishers' config.json says, and where their files are.

What each needs is computed from that config by the formulas that jobs and deployments use, so it
is an estimate (`app.deployments.needs`).
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("presets.json")


@dataclass(frozen=True)
class Preset:
    id: str
    name: str
    family: str
    licence: str
    huggingface: str  # repository
    modelscope: str
    config: dict[str, Any]

    @property
    def context_length(self) -> int:
        return int(self.config["max_position_embeddings"])

    @property
    def parameters(self) -> int:
        """Of the layers and embeddings; the few of norms and biases aside."""
        config = self.config
        hidden, width = config["hidden_size"], config["head_dim"]
        queries = config["num_attention_heads"] * width
        keys = config["num_key_value_heads"] * width
        layer = 2 * hidden * (queries + keys) + 3 * hidden * config["intermediate_size"]
        tables = 1 if config["tie_word_embeddings"] else 2
        return int(config["num_hidden_layers"] * layer + tables * config["vocab_size"] * hidden)

    def repository(self, hub: str) -> str:
        return self.modelscope if hub == "modelscope" else self.huggingface


@lru_cache
def every() -> tuple[Preset, ...]:
    return tuple(Preset(**one) for one in json.loads(FILE.read_bytes())["presets"])


def find(preset_id: str) -> Preset | None:
    return next((one for one in every() if one.id == preset_id), None)


def families() -> list[str]:
    return list(dict.fromkeys(one.family for one in every()))
