"""A run's model: the base's weights, and what of them or beside them the method trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs import methods
from app.jobs.spec import RunSpec
from workers.stages import adapters
from workers.stages.adapters import Update
from workers.stages.prepare import Examples
from workers.stages.run import StageError, named, say


@dataclass
class Loaded:
    """A model that is ready to be trained. Its adapter is `fresh` if it changes nothing yet, so
    that the model without it is what training began with. `before` are updates of the original
    base that belong to the result besides what is learnt.
    """

    model: Any
    fresh: bool
    before: list[Update]


def bf16(spec: RunSpec) -> bool:
    """Whether to compute in bfloat16. `auto`: where the device has instructions for it. Without
    them (AVX2) a step of the starter model took ten times as long as in float32.
    """
    import torch

    asked = spec.hyperparameters.precision
    if asked != "auto":
        return asked == "bf16"
    if spec.device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def load_model(spec: RunSpec, base: Path, examples: Examples) -> Loaded:
    """The model with everything frozen that the method does not train.

    On a GPU frozen weights stay in bfloat16; what is trained is always float32.
    """
    import torch
    from transformers import set_seed

    torch.set_num_threads(spec.threads)
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise StageError("no_device", N_("The node has no usable GPU for this run."))
    hp = spec.hyperparameters
    set_seed(hp.seed)
    model = read_model(spec, base)
    if (
        int(torch.frombuffer(examples.ids, dtype=torch.int32).max())
        >= model.get_input_embeddings().num_embeddings
    ):
        raise StageError(
            "bad_model",
            N_("The model's tokenizer has more tokens than the model."),
            file="tokenizer",
        )
    if hp.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loaded = with_method(spec, model)
    whole = trained = 0
    for weight in loaded.model.parameters():
        whole += weight.numel()
        if weight.requires_grad:
            trained += weight.numel()
            weight.data = weight.data.to(torch.float32)
    say(f"{whole:,} parameters, {trained:,} of them trained ({100 * trained / whole:.2f} %)")
    return loaded


def read_model(spec: RunSpec, base: Path) -> Any:
    """The base's weights; random ones where there are none, and in the head of a reward model."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    frozen = spec.device == "cuda" and spec.method != "full" and bf16(spec)
    dtype = torch.bfloat16 if frozen else torch.float32
    reward = spec.stage == "reward"
    shape = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    try:
        if spec.stage == "pretrain" and not any(base.glob("*.safetensors")):
            say("The base has no weights: starting from random ones")
            config = AutoConfig.from_pretrained(base, local_files_only=True)
            return shape.from_config(config, dtype=dtype)
        model, about = shape.from_pretrained(
            base,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({"num_labels": 1} if reward else {}),
            **(quantised(spec, dtype) if spec.method == "qlora" else {}),
        )
    except Exception as error:  # whatever a stranger's files make of our libraries
        if named(error).code != "crashed":  # the disk or the memory, not the model
            raise
        raise bad_model(error) from error
    missing = sorted(name for name in about["missing_keys"] if not (reward and "score" in name))
    if missing:
        raise bad_model(ValueError(f"weights are missing: {', '.join(missing[:5])}"))
    return model


def quantised(spec: RunSpec, dtype: Any) -> dict[str, Any]:
    """QLoRA (Dettmers et al. 2023, arXiv:2305.14314): the frozen base in 4-bit NormalFloat, its
    scales quantised once more; or in 8 bits (LLM.int8, arXiv:2208.07339), outliers apart.
    """
    from transformers import BitsAndBytesConfig

    four = spec.hyperparameters.quantization_bits == 4
    config = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": spec.device}}


def with_method(spec: RunSpec, model: Any) -> Loaded:
    """The weights that the method trains, and no others, need gradients.

    A given adapter is gone on with; or what it adds is put into the weights in memory, and a new
    one, the last layers or all weights are trained on top.
    """
    hp, lora = spec.hyperparameters, spec.method in methods.ADAPTERS
    before: list[Update] = []
    if spec.adapter:
        going_on = lora and hp.chain == "continue" and spec.stage != "reward"
        model = adapters.add_given(model, spec.adapter, trained=going_on)
        if going_on:
            say("Goes on with the given adapter: its rank, alpha and dropout hold")
            return Loaded(model, fresh=False, before=[])
        if lora and spec.stage != "reward":
            before.append(adapters.update_of(model))
        say("The given adapter is merged in memory, and training begins on top of it")
        model = model.merge_and_unload()
    if lora:
        task = "SEQ_CLS" if spec.stage == "reward" else "CAUSAL_LM"
        model = adapters.add_new(model, hp, task=task)
        pissa = hp.lora_init == "pissa"
        if pissa and spec.stage != "reward":
            before.append(adapters.minus(adapters.update_of(model)))
        return Loaded(model, fresh=not pissa, before=before)
    model.requires_grad_(requires_grad=True)
    if spec.method == "freeze":
        adapters.train_last_layers(model, hp.freeze_layers)
    return Loaded(model, fresh=True, before=[])


def bad_model(error: Exception) -> StageError:
    return StageError(
        "bad_model", N_("The model cannot be loaded: %(reason)s"), reason=str(error)[:1000]
    )
