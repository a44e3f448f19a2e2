"""DashScope's `hyper_parameters` as ours."""

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.errors import N_, Invalid
from app.jobs import methods
from app.jobs.spec import Split

OURS = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "max_length": "max_length",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "eval_steps": "eval_steps",
    "logging_steps": "logging_steps",
    "lora_rank": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "save_steps": "save_steps",
    "save_total_limit": "keep_checkpoints",
    "beta": "beta",
    "seed": "seed",
}
SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
HELD = ("split", "max_split_val_dataset_sample")  # how rows are held back
IDLE = ("prompt_loss", "freeze_vit", "save_strategy")  # taken, and of no effect by themselves
NOT_HERE = ("data_augmentation", "augmentation_types", "augmentation_ratio")
SEED = 42


def translate(given: Mapping[str, Any], stage: str, method: str) -> dict[str, Any]:
    """{hyperparameters, split}: see `TuningJob.settings`. Raises Invalid, or RequestValidationError
    for a value out of its range; both name the field as DashScope calls it.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in HELD or name in IDLE:
            continue
        if name not in OURS:
            if name in NOT_HERE and not value:
                continue
            raise unknown(name)
        found[OURS[name]] = scheduler(value) if name == "lr_scheduler_type" else value
    if given.get("save_strategy") == "epoch":
        found.pop("save_steps", None)
    try:
        whole = methods.complete(method, found, stage=stage)
    except ValidationError as error:
        theirs = {ours: name for name, ours in OURS.items()}
        raise RequestValidationError(
            [
                {**one, "loc": ("hyper_parameters", *(theirs.get(str(p), p) for p in one["loc"]))}
                for one in error.errors(include_url=False)
            ]
        ) from None
    chosen = {name: getattr(whole, name) for name in found}
    return {"hyperparameters": chosen, "split": split(given, whole.seed)}


def unknown(name: str) -> Invalid:
    message = N_("%(name)s is not available here.") if name in NOT_HERE else N_("There is no hyperparameter %(name)s. These are known: %(known)s.")  # fmt: skip
    return Invalid(
        message,
        field=f"hyper_parameters.{name}"[:100],
        name=name[:100],
        known=", ".join((*OURS, *HELD, *IDLE)),
    )


def scheduler(value: Any) -> str:
    if value not in SCHEDULERS:
        raise Invalid(
            N_("The schedule %(name)s is not available here. These are: %(known)s."),
            field="hyper_parameters.lr_scheduler_type",
            name=str(value)[:100],
            known=", ".join(SCHEDULERS),
        )
    return SCHEDULERS[value]


def split(given: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """`split` is the share that is trained on: the rest is held back, if it is said."""
    if given.get("split") is None:
        return None
    try:
        share = round(1 - float(given["split"]), 6)
        most = int(given.get("max_split_val_dataset_sample") or 1000)
        return Split(split=share, most=most, seed=seed).model_dump()
    except (TypeError, ValueError):
        raise Invalid(
            N_("split is the share of rows to train on, from 0.1 to less than 1."),
            field="hyper_parameters.split",
        ) from None
