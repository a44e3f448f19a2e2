"""The model card that goes with each download: YAML that hubs read, then Markdown for people.

In English, as model cards are. Names come from users: in the YAML they are JSON strings, in the
text every sign that Markdown reads is escaped.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.models.schemas import Ancestor, ModelDetail

STAGES = {
    "pretrain": "Continued pre-training",
    "sft": "Supervised fine-tuning (SFT)",
    "dpo": "Preference tuning (DPO)",
    "kto": "Preference tuning (KTO)",
    "orpo": "Preference tuning (ORPO)",
    "reward": "Reward model",
    "merge": "Adapter merged into its base",
}
MEASURES = {
    "step": "Checkpoint of step",
    "steps": "Steps",
    "loss": "Training loss, last step",
    "eval_loss": "Validation loss",
    "tokens": "Tokens trained on",
    "seconds": "Seconds of training",
    "peak_memory": "Peak memory, bytes",
}


def markdown(model: ModelDetail) -> str:
    return "\n".join([*head(model), "", *body(model), ""])


# -- for hubs ------------------------------------------------------------------------------


def head(model: ModelDetail) -> Iterator[str]:
    lineage = model.lineage
    adapter = model.kind == "adapter"
    base = lineage.get("base") or {}
    parents = [str(base["name"])] if base.get("name") else []
    tags = ["danlu", *(str(lineage[key]) for key in ("method", "stage") if lineage.get(key))]
    yield "---"
    yield f"library_name: {'peft' if adapter else 'transformers'}"
    yield "pipeline_tag: text-generation"
    if model.licence:
        yield f"license: {json.dumps(model.licence.lower())}"
    if parents:
        yield f"base_model: {json.dumps(parents, ensure_ascii=False)}"
        if adapter or lineage.get("stage") == "merge":
            yield f"base_model_relation: {'adapter' if adapter else 'merge'}"
    if names := [str(one.get("name")) for step in steps(model) for one in datasets(step)]:
        yield f"datasets: {json.dumps(list(dict.fromkeys(names)), ensure_ascii=False)}"
    yield f"tags: {json.dumps(tags)}"
    yield "---"


# -- for people ----------------------------------------------------------------------------


def body(model: ModelDetail) -> Iterator[str]:
    lineage = model.lineage
    yield f"# {plain(model.name)}"
    yield ""
    what = {"adapter": "A LoRA adapter", "merged": "A whole model"}.get(model.kind, "A base model")
    yield f"{what} ({plain(model.architecture)}, {model.parameters:,} parameters)."
    if model.kind == "adapter" and (lineage.get("base") or {}).get("name"):
        yield f"It needs its base model, {plain(lineage['base']['name'])}."
    yield ""
    yield "## How it was made"
    yield ""
    for number, step in enumerate(steps(model), 1):
        yield f"{number}. {made(step)}"
    if measured := lineage.get("measured"):
        yield from table(
            "Measured", {MEASURES[key]: value for key, value in measured.items() if key in MEASURES}
        )
    if lineage.get("spec"):
        yield from table("Hyperparameters", lineage["spec"])
    if lineage.get("code"):
        yield from table("Versions", {"code": lineage["code"], **(lineage.get("libraries") or {})})


def steps(model: ModelDetail) -> list[ModelDetail | Ancestor]:
    """The oldest first."""
    return [*model.ancestors, model]


def made(step: ModelDetail | Ancestor) -> str:
    """One station: how, on what, and what came of it."""
    lineage = step.lineage
    name = f"**{plain(step.name)}**"
    stage = lineage.get("stage")
    if not stage:
        return f"{name}, the base"
    text = STAGES.get(str(stage), plain(stage))
    if lineage.get("method"):
        text += f", {plain(lineage['method'])}"
    data = [
        f"{plain(one.get('name'))}, version {plain(one.get('version'))}"
        f" ({one.get('rows') or 0:,} rows, SHA-256 `{re.sub('[^0-9a-f]', '', str(one.get('hash')))}`)"
        for one in datasets(step)
    ]
    on = f" on {'; '.join(data)}" if data else ""
    return f"{text}{on}: {name}"


def datasets(step: ModelDetail | Ancestor) -> list[Mapping[str, Any]]:
    main = step.lineage.get("dataset")
    return list(step.lineage.get("datasets") or ([main] if main else []))


def table(title: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| | |", "|---|---|")
    for name, value in values.items():
        yield f"| {plain(name)} | {plain('' if value is None else value)} |"


def plain(value: Any) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split())[:2000]
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", html.escape(line, quote=False))
