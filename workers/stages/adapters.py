"""Adapters beside a model's weights: made, gone on with, stacked, and brought into a form that
every engine, and the merge, can use.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds to a weight W of (out, in) the product of two narrow
matrices: W + s·B·A with A (r, in), B (out, r) and s = alpha / r; rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732) has s = alpha / √r. DoRA (Liu et al. 2024, arXiv:2402.09353) learns the length of
each row of the sum apart. PiSSA (Meng et al. 2024, arXiv:2404.02948) takes for A₀ and B₀ the
strongest singular vectors of W and leaves W − s·B₀·A₀ as the base.

A sum of LoRA updates is one LoRA update, of the sum of their ranks:
    Σ sᵢ·Bᵢ·Aᵢ = [s₁B₁ … sₙBₙ]·[A₁; …; Aₙ]
So what was learnt with PiSSA is saved as B·A − B₀·A₀ beside the original base, and an adapter that
was stacked on another as the sum of both: always one plain adapter of the same base.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import Hyperparameters
from workers.stages.run import StageError, say

Update = dict[str, tuple[Any, Any]]  # module → A (r, in), s·B (out, r)


def add_new(model: Any, hp: Hyperparameters, *, task: str = "CAUSAL_LM") -> Any:
    """`model` with a new adapter. Raises StageError when the layers asked for are not there."""
    from peft import LoraConfig, get_peft_model

    target = hp.lora_target
    config = LoraConfig(
        r=hp.lora_rank,
        lora_alpha=hp.lora_alpha,
        lora_dropout=hp.lora_dropout,
        target_modules=target if target == "all-linear" else names(target),
        use_rslora=hp.use_rslora,
        use_dora=hp.use_dora,
        init_lora_weights="pissa" if hp.lora_init == "pissa" else True,
        task_type=task,
    )
    try:
        made = get_peft_model(model, config)
    except ValueError as error:  # peft's word for all that does not fit
        raise StageError(
            "bad_lora_target",
            N_("The LoRA layers do not fit this model: %(reason)s"),
            reason=str(error)[:500],
        ) from error
    # PiSSA is done with: whoever reads the configuration again shall not take the weights apart twice
    made.peft_config["default"].init_lora_weights = True
    return made


def names(target: str) -> list[str]:
    return [name.strip() for name in target.split(",")]


def add_given(model: Any, adapter: str, *, trained: bool) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=trained, local_files_only=True)


def update_of(model: Any) -> Update:
    """What the model's adapter adds to its weights. Raises StageError when it is more than LoRA."""
    from peft.tuners.lora import LoraLayer

    config = model.peft_config["default"]
    more = [
        name
        for name in ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")
        if getattr(config, name, None)
    ]
    found: Update = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if len(module.lora_embedding_A):
            more.append("embeddings")
        if "default" in module.lora_A:
            a = module.lora_A["default"].weight.detach().float().cpu().clone()
            b = module.lora_B["default"].weight.detach().float().cpu()
            found[name] = a, b * module.scaling["default"]
    if more or config.bias != "none":
        raise StageError(
            "unsupported_adapter",
            N_(
                "This adapter cannot be stacked on: it uses %(feature)s. Merge it first, then start"
                " from the merged model."
            ),
            feature=", ".join(sorted(set(more))) or "bias",
        )
    return found


def minus(update: Update) -> Update:
    return {name: (a, -b) for name, (a, b) in update.items()}


def save_sum(model: Any, before: list[Update], directory: Path) -> None:
    """The model's adapter and `before`, added up, as one plain LoRA adapter in `directory`.

    Modules that only some of them change are filled up with zeros: one rank holds for all.
    """
    import torch
    from safetensors.torch import save_file

    parts = [*before, update_of(model)]
    ranks = [max(len(a) for a, _ in part.values()) for part in parts]
    rank = sum(ranks)
    tensors = {}
    for name in sorted(set().union(*parts)):
        there = [part[name] for part in parts if name in part]
        a, b = torch.cat([a for a, _ in there]), torch.cat([b for _, b in there], dim=1)
        missing = rank - len(a)
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, missing))
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b, (0, missing)).contiguous()
    config = replace(
        model.peft_config["default"],
        r=rank,
        lora_alpha=rank,  # s = 1: the scales are in B
        use_rslora=False,
        init_lora_weights=True,
        rank_pattern={},
        alpha_pattern={},
        target_modules=sorted({key.split(".")[-3] for key in tensors}),
        inference_mode=True,
    )
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def train_last_layers(model: Any, count: int) -> None:
    """Freeze all but the last `count` layers (and a new head, where there is one)."""
    model.requires_grad_(requires_grad=False)
    layers = decoder_layers(model)
    head = getattr(model, "score", None)
    for module in [*layers[-count:], *([head] if head is not None else [])]:
        for weight in module.parameters():
            weight.requires_grad_(requires_grad=True)
    say(f"The last {min(count, len(layers))} of {len(layers)} layers are trained")


def decoder_layers(model: Any) -> Any:
    """The list of the model's layers. Raises StageError for a model that has none."""
    import torch

    config = model.config.get_text_config()
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise StageError(
        "no_layers", N_("The layers of this model cannot be told apart. Choose LoRA instead.")
    )
