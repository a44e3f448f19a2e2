"""What can be tuned how, and where: plain data that the form, the API and docs/methods.md obey.

A stage says what is learnt and from which rows, a method which weights change. `RUNS` is the table:
what does not stand there is not offered and refused. `python -m app.jobs.methods` prints it.
"""

from collections.abc import Collection
from typing import Any

from app.errors import N_, Invalid
from app.jobs.spec import Hyperparameters

STAGES = {
    "sft": N_("Supervised fine-tuning"),
    "pretrain": N_("Continued pre-training"),
    "dpo": N_("Preferences (DPO)"),
    "kto": N_("Good and bad answers (KTO)"),
    "orpo": N_("Fine-tuning and preferences in one (ORPO)"),
    "reward": N_("Reward model"),
}
METHODS = {
    "lora": N_("LoRA"),
    "qlora": N_("QLoRA"),
    "freeze": N_("Last layers"),
    "full": N_("Full tuning"),
}
ABOUT_STAGE = {
    "sft": N_("learns to answer as the conversations do"),
    "pretrain": N_("learns language and facts from plain text"),
    "dpo": N_("learns to prefer the better of two answers"),
    "kto": N_("learns from answers that are marked good or bad"),
    "orpo": N_("learns the better answers, and to prefer them, in one go"),
    "reward": N_("learns to score answers: the result judges, and does not chat"),
}
ABOUT_METHOD = {
    "lora": N_(
        "trains a small adapter beside the model: quick, little memory, and enough most of the time"
    ),
    "qlora": N_("the same on a model squeezed to 4 or 8 bits: least memory, somewhat slower"),
    "freeze": N_("trains the last layers alone: the result is a whole model of its own"),
    "full": N_("trains every weight: the result is a whole model of its own"),
}
# What a stage reads: the kind of the dataset's rows.
KINDS = {
    "sft": "sft",
    "pretrain": "pretrain",
    "dpo": "preference",
    "kto": "kto",
    "orpo": "preference",
    "reward": "preference",
}
EVERYWHERE = ("cpu", "cuda")
# stage → method → kinds of devices. bitsandbytes has kernels for both, so QLoRA runs on both. A
# reward model is saved whole, with its new head, and that cannot be done from a quantised base.
RUNS: dict[str, dict[str, tuple[str, str]]] = {
    stage: dict.fromkeys(METHODS, EVERYWHERE) for stage in ("sft", "pretrain", "dpo", "kto", "orpo")
} | {"reward": dict.fromkeys(("lora", "freeze", "full"), EVERYWHERE)}

ADAPTERS = ("lora", "qlora")
PREFERENCES = ("dpo", "kto", "orpo", "reward")
LORA = "lora_rank lora_alpha lora_dropout lora_target use_rslora use_dora lora_init loraplus_ratio chain"
# Fields that mean something for some methods, or some stages, alone.
FOR_METHOD = dict.fromkeys(LORA.split(), ADAPTERS) | {
    "quantization_bits": ("qlora",),
    "freeze_layers": ("freeze",),
}
FOR_STAGE = {
    "neftune_alpha": ("sft", "pretrain"),
    "lora_dropout": ("sft", "pretrain"),  # TRL trains preferences without dropout
    "beta": ("dpo", "kto", "orpo"),
    "dpo_loss": ("dpo",),
    "label_smoothing": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}

# Defaults where a stage has others: (with an adapter, without). A preference is a gentle push on a
# model that can answer already, so its rates are a tenth to a hundredth of SFT's; TRL's are alike.
RATES = {
    "sft": (2e-4, 1e-5),
    "pretrain": (2e-4, 1e-5),
    "dpo": (1e-5, 1e-6),
    "kto": (1e-5, 1e-6),
    "orpo": (5e-5, 5e-6),
    "reward": (1e-4, 1e-5),
}
SIMPO_BETA = 2.0  # its authors' choice: rewards are per token there


def applies(field: str, stage: str, method: str) -> bool:
    """Whether a hyperparameter means something there."""
    return method in FOR_METHOD.get(field, (method,)) and stage in FOR_STAGE.get(field, (stage,))


def offered(devices: Collection[str]) -> dict[str, list[str]]:
    """Stage → methods that can run on devices of these kinds (cpu, cuda)."""
    found = {
        stage: [method for method in METHODS if set(devices) & set(methods.get(method, ()))]
        for stage, methods in RUNS.items()
    }
    return {stage: methods for stage, methods in found.items() if methods}


def shares(stage: str, method: str) -> bool:
    """Whether its model can be shared out over devices (FSDP), each holding a part; else each of
    several devices holds all of it (DDP). What little an adapter trains is not worth sharing, and
    TRL's losses of preferences ask for a whole model.
    """
    return method == "full" and stage not in PREFERENCES


def device_kind(stage: str, method: str) -> str | None:
    """The kind of device that a job must ask for; None where any will do."""
    kinds = RUNS.get(stage, {}).get(method, EVERYWHERE)
    return kinds[0] if len(kinds) == 1 else None


def complete(
    method: str, given: dict[str, Any], *, stage: str = "sft", context_length: int = 0
) -> Hyperparameters:
    """`given` with every other field at its default for the stage, the method and the model.

    Raises pydantic.ValidationError, one error per bad field.
    """
    return Hyperparameters.model_validate(
        defaults(stage, method, context_length, given.get("dpo_loss")) | given
    )


def defaults(
    stage: str, method: str, context_length: int = 0, dpo_loss: Any = None
) -> dict[str, Any]:
    """Those that differ from the fields' own. Unknown stages and methods have SFT's and LoRA's."""
    rates = RATES.get(stage, RATES["sft"])
    found: dict[str, Any] = {"learning_rate": rates[method in {"full", "freeze"}]}
    if stage in PREFERENCES:
        found["epochs"] = 1.0
    if stage == "dpo" and dpo_loss == "simpo":
        found["beta"] = SIMPO_BETA
    if 8 <= context_length < Hyperparameters().max_length:
        found["max_length"] = context_length
    return found


def schema(stage: str, method: str, context_length: int = 0) -> dict[str, Any]:
    """JSON Schema of the hyperparameters that mean something there, with their defaults."""
    whole = Hyperparameters.model_json_schema()
    found = defaults(stage, method, context_length)
    whole["properties"] = {
        name: about | ({"default": found[name]} if name in found else {})
        for name, about in whole["properties"].items()
        if applies(name, stage, method)
    }
    return whole


def check(
    stage: str, method: str, settings: Hyperparameters, devices: Collection[str], *, adapter: bool
) -> None:
    """Raises Invalid, with the field, for what cannot run. `adapter`: the job starts from one."""
    if method not in RUNS[stage]:
        raise Invalid(
            N_("A reward model cannot be made with QLoRA. Choose LoRA, or another method."),
            code="method_unavailable",
            field="method",
        )
    if devices and not set(devices) & set(RUNS[stage][method]):
        raise Invalid(
            N_("No device here can run this method. Choose another."),
            code="method_unavailable",
            field="method",
        )
    if settings.label_smoothing and stage == "dpo" and settings.dpo_loss in {"hinge", "ipo"}:
        raise Invalid(
            N_("Label smoothing goes with the losses sigmoid and simpo alone."),
            field="hyperparameters.label_smoothing",
        )
    if method in ADAPTERS:
        check_adapter(method, settings, stacked=adapter and settings.chain == "stack")


def check_adapter(method: str, settings: Hyperparameters, *, stacked: bool) -> None:
    """Raises Invalid for a new adapter that could not be made, or not be kept as an adapter."""
    pissa = settings.lora_init == "pissa"
    if method == "qlora" and pissa:
        raise Invalid(
            N_("PiSSA takes the weights apart, and QLoRA's are squeezed. Choose one of the two."),
            field="hyperparameters.lora_init",
        )
    if method == "qlora" and stacked:
        raise Invalid(
            N_("QLoRA cannot stack a new adapter on another. Continue it, or merge it first."),
            field="hyperparameters.chain",
        )
    if settings.use_dora and (pissa or stacked):
        raise Invalid(
            N_(
                "A DoRA adapter can neither begin with PiSSA nor be stacked on another: the result"
                " would be no adapter. Leave DoRA out, or merge the first adapter and start from"
                " the merged model."
            ),
            field="hyperparameters.use_dora",
        )


def table() -> str:
    """docs/methods.md's table: a test holds the page to it."""
    lines = [
        f"| | rows | {' | '.join(METHODS.values())} |",
        f"|---|---|{'---|' * len(METHODS)}",
    ]
    for stage, methods in RUNS.items():
        cells = [", ".join(methods.get(method, ("not offered",))) for method in METHODS]
        lines.append(f"| {STAGES[stage]} (`{stage}`) | {KINDS[stage]} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - a command
