"""What a run needs on each device, part by part, before it is started. Pure.

weights      parameters x bytes of each: 4 where they are trained, 2 where they are frozen on a
             GPU, about 0.55 or 1.05 where they are frozen and quantised to 4 or 8 bits
training     trained parameters x (4 gradient + 8 AdamW, 0.1 Adafactor, 0 SGD)
activations  tokens of a pass x layers x (6h + 2q + 2kv + 4i) x bytes + 8h: what a decoder layer
             keeps for the way back (h hidden, q and kv widths of the attention, i of the MLP).
             With gradient checkpointing one h per layer, and one layer in full.
loss         logits in float32, worked through LOGITS bytes at a time: them, their gradient,
             and what the softmax needs
libraries    what is there before the first weight
"""

import math
from dataclasses import dataclass
from typing import Any

from app.errors import N_

LIBRARIES = {"cuda": 900 * 2**20, "cpu": 650 * 2**20}  # bytes
LOGITS = {"cuda": 2**29, "cpu": 2**26}  # bytes of them that exist at once
OPTIMIZER = {"adamw": 8.0, "adafactor": 0.1, "sgd": 0.0}  # bytes per trained parameter
ADAPTERS = ("lora", "qlora")


@dataclass(frozen=True)
class Shape:
    """Of a decoder: widths in elements."""

    parameters: int
    hidden: int
    layers: int
    inner: int  # of the MLP
    queries: int
    keys: int  # keys, and as many values
    vocabulary: int
    tied: bool = True

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def linear(self) -> list[tuple[int, int]]:
        """In and out of the linear layers of one block."""
        h, i = self.hidden, self.inner
        attention = [(h, self.queries), (h, self.keys), (h, self.keys), (self.queries, h)]
        return [*attention, (h, i), (h, i), (i, h)]


def shape(config: dict[str, Any], parameters: int) -> Shape:
    """From a model's config.json; what it does not say is guessed from the number of parameters."""
    text = config.get("text_config") or config
    guess = max(64, round((parameters / 300) ** 0.5 / 64) * 64)  # 12 h² a layer, some 25 layers

    def number(*names: str, default: int) -> int:
        for name in names:
            if isinstance(text.get(name), int) and text[name] > 0:
                return int(text[name])
        return default

    hidden = number("hidden_size", "n_embd", "d_model", default=guess)
    layers = number("num_hidden_layers", "n_layer", "num_layers", default=25)
    heads = number("num_attention_heads", "n_head", default=max(1, hidden // 64))
    width = number("head_dim", default=max(1, hidden // heads))
    inner = number("intermediate_size", "n_inner", default=4 * hidden)
    made = Shape(
        parameters=parameters,
        hidden=hidden,
        layers=layers,
        inner=inner,
        queries=heads * width,
        keys=number("num_key_value_heads", default=heads) * width,
        vocabulary=number("vocab_size", default=32_000),
        tied=bool(text.get("tie_word_embeddings", True)),
    )
    if parameters:
        return made
    blocks = layers * sum(a * b for a, b in made.linear)
    return Shape(**vars(made) | {"parameters": blocks + made.embeddings})


@dataclass(frozen=True)
class Part:
    """Bytes, and in words how they come about: a msgid with its params."""

    name: str
    bytes: int
    words: str
    params: dict[str, Any]


def trained(model: Shape, method: str, settings: dict[str, Any]) -> int:
    """Parameters that get gradients."""
    if method in ADAPTERS:
        return int(settings["lora_rank"]) * model.layers * sum(a + b for a, b in model.linear)
    if method == "freeze":
        last = min(model.layers, int(settings.get("freeze_layers") or 2))
        return last * sum(a * b for a, b in model.linear)
    return model.parameters


def weight_bytes(model: Shape, method: str, settings: dict[str, Any], kind: str) -> float:
    """Of the model itself, adapters aside."""
    if method == "qlora":
        each = 1.05 if settings.get("quantization_bits") == 8 else 0.55
        return (model.parameters - model.embeddings) * each + 2 * model.embeddings
    frozen = method in ADAPTERS and kind == "cuda" and settings.get("precision") != "fp32"
    return model.parameters * (2 if frozen else 4)


def pass_tokens(settings: dict[str, Any], longest: int) -> int:
    """Tokens of the largest forward pass, padding included."""
    rows = int(settings["batch_size"]) * longest
    return max(longest, min(int(settings["batch_tokens"]), rows))


def parts(
    model: Shape,
    method: str,
    settings: dict[str, Any],
    *,
    kind: str,
    longest: int,
    devices: int = 1,
    sharded: bool = False,
    second: bool = False,
) -> list[Part]:
    """Of one device. `longest` is the longest row in tokens; `sharded`: weights and what belongs
    to them are divided among the devices; `second`: a row has two answers.
    """
    learnt = trained(model, method, settings)
    share = devices if sharded else 1
    optimizer = OPTIMIZER.get(str(settings.get("optimizer", "adamw")), 8.0)
    adapter = 4 * learnt if method in ADAPTERS else 0
    tokens = pass_tokens(settings, longest) * (2 if second else 1)
    width = 2 if kind == "cuda" and settings.get("precision") != "fp32" else 4
    h = model.hidden
    layer = (6 * h + 2 * model.queries + 2 * model.keys + 4 * model.inner) * width + 8 * h
    light = bool(settings.get("gradient_checkpointing"))
    kept = (model.layers * h * width + layer) if light else model.layers * layer
    weights = weight_bytes(model, method, settings, kind) + adapter
    logits = min(4 * tokens * model.vocabulary, LOGITS[kind])
    return [
        Part(
            "weights",
            math.ceil(weights / share),
            N_("%(parameters)s parameters at %(each)s bytes, divided among %(share)s"),
            {
                "parameters": f"{model.parameters:,}",
                "each": f"{weights / max(1, model.parameters):.2g}",
                "share": share,
            },
        ),
        Part(
            "training",
            math.ceil(learnt * (4 + optimizer) / share),
            N_("%(trained)s trained parameters x (4 gradient + %(optimizer)s optimizer)"),
            {"trained": f"{learnt:,}", "optimizer": f"{optimizer:g}"},
        ),
        Part(
            "activations",
            tokens * kept,
            N_("%(tokens)s tokens of a pass x %(each)s kept of each in %(layers)s layers"),
            {"tokens": f"{tokens:,}", "each": f"{kept:,} B", "layers": model.layers},
        ),
        Part(
            "loss",
            3 * logits,
            N_("3 x %(logits)s MiB of logits (%(vocabulary)s words), worked through in pieces"),
            {"logits": f"{logits / 2**20:,.0f}", "vocabulary": f"{model.vocabulary:,}"},
        ),
        Part("libraries", LIBRARIES[kind], N_("before the first weight"), {}),
    ]


def least(model: Shape, method: str, settings: dict[str, Any], *, kind: str, share: int) -> int:
    """Bytes without which the run cannot even begin, whatever the batch: weights, gradients and
    optimizer, exactly.
    """
    found = parts(model, method, settings, kind=kind, longest=1, devices=share, sharded=share > 1)
    return sum(part.bytes for part in found if part.name in ("weights", "training"))
