"""Tune a model: `python -m workers.stages.train RUN_DIR`. Reads from top to bottom.

Prepare the rows, load the model, take the steps, save what was learnt. Everything it knows comes
from `RUN_DIR/spec.json`; everything it says goes into RUN_DIR (see run.py). It may be killed at
any moment: another attempt goes on from the last complete checkpoint, and the curve with it.
"""

import hashlib
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import RunSpec
from app.models import vocabulary
from app.models.vocabulary import Vocabulary
from workers.stages import checkpoints, models, tokens
from workers.stages.checkpoints import Progress
from workers.stages.prepare import Examples
from workers.stages.run import Run, StageError, Stopped, execute, leave_out, named, quiet, say

# Settings that change how a run is watched, but not what it computes.
HARMLESS = {
    "logging_steps",
    "eval_steps",
    "save_steps",
    "save_seconds",
    "keep_checkpoints",
    "keep_best",
    "early_stopping_patience",
    "sample_prompts",
    "sample_tokens",
}


def train(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: what are we given, and may we use it?
    say(f"Job {spec.job_id}, attempt {spec.fence}: {spec.stage} {spec.method}")
    quiet(spec.threads)
    if spec.stage in {"sft", "pretrain"}:  # the others train with TRL
        leave_out("datasets", "trl", "pandas", "sklearn", "scipy")
        if str(spec.method) != "qlora":
            leave_out("bitsandbytes")
    base = Path(spec.base)
    config = models.check_base(base, weights=spec.stage == "sft")
    if spec.adapter:
        models.check_adapter(Path(spec.adapter))
    resume = Path(spec.resume_from) if spec.resume_from else None
    progress = checkpoints.load(resume) if resume else Progress(began=time.time())

    # -- prepare: rows to tokens and masks; of several processes the first does it for all
    words = load_vocabulary(base, spec)
    if run.rank:
        made = tokens.wait(run)
    else:
        made = tokens.prepared(run, spec, config, words, progress.began)
        tokens.tell(run, made)
    examples, stops = made.train, stop_tokens(run, words, made.train)
    print_of_run = fingerprint(spec, base, examples)
    if resume and progress.fingerprint != print_of_run:
        raise StageError(
            "resume_mismatch",
            N_(
                "The checkpoint belongs to other data or settings, so the run cannot go on from it."
            ),
        )
    progress.fingerprint = print_of_run

    # -- load: weights, and the matrices that will be trained
    run.enter("load")
    model = load_model(spec, base, examples)
    from workers.stages.samples import sampler
    from workers.stages.trainer import StepTrainer

    trainer = StepTrainer(
        model,
        run,
        spec.hyperparameters,
        progress,
        cuda=spec.device == "cuda",
        bf16=bf16(spec),
        examples=examples,
        validation=made.validation,
        fsdp=spec.strategy == "fsdp" and run.ranks > 1,
        sampler=sampler(run, spec, words, stops),
    )

    # -- fit: from here on SIGTERM waits for the end of a step, and leaves a checkpoint
    run.patient = True
    run.step, run.total = progress.step, trainer.total
    run.forget_after(progress.step)
    run.enter("train")
    if resume:
        run.event("resumed", N_("Goes on after step %(step)s."), step=progress.step)
    progress = trainer.fit(str(resume) if resume else None)
    if not trainer.ended():
        raise Stopped

    # -- save: what a later stage or an engine needs, and nothing of this run's making
    run.enter("save")
    target = run.directory / ("adapter" if spec.method == "lora" else "model")
    if spec.method == "lora":
        model.peft_config["default"].base_model_name_or_path = base.name  # not a path of this node
    trainer.leave(target, None if spec.method == "lora" else stored_dtype(config))
    if run.rank == 0:
        models.carry_tokenizer(base, target, words.template)
        models.write_generation_config(base, target, stops)
    return {
        "kind": target.name,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss,
        "eval_loss": progress.eval_loss,
        "best_step": progress.best_step or None,
        "best_loss": progress.best_loss,
        "data": made.data,
        "mix": made.mix,
        "validation": made.checks,
        "stop_token_ids": stops,
        "peak_memory": peak_memory(spec.device),
        "libraries": libraries(),
    }


# -- prepare -------------------------------------------------------------------------------


def load_vocabulary(base: Path, spec: RunSpec) -> Vocabulary:
    """The model's tokenizer and template. Raises StageError when they cannot be trained with."""
    if not (base / "tokenizer.json").is_file():
        raise StageError(
            "bad_model",
            N_("The model has no tokenizer.json, which training needs."),
            file="tokenizer",
        )
    words = vocabulary.load(base)
    if words.template is None and spec.stage == "sft":
        raise StageError(
            "no_chat_template",
            N_("The model has no chat template, so conversations cannot be put into its words."),
        )
    return words


def stop_tokens(run: Run, words: Vocabulary, examples: Examples) -> list[int]:
    """Where an engine has to stop: what the model says, and what its answers were trained with."""
    if new := sorted(examples.stops - set(words.stops)):
        run.event(
            "warning",
            N_(
                "Answers end with %(tokens)s, where the base model does not stop; the tuned one does."
            ),
            tokens=" ".join(words.tokenizer.id_to_token(one) or "" for one in new),
        )
    return words.stops + new


def fingerprint(spec: RunSpec, base: Path, examples: Examples) -> str:
    """Of everything that decides what the run computes."""
    settings = spec.hyperparameters.model_dump_json(exclude=HARMLESS)
    digest = hashlib.sha256(f"{spec.stage} {spec.method} {settings}".encode())
    digest.update((base / "config.json").read_bytes())
    digest.update(memoryview(examples.ids))
    digest.update(examples.trained)
    digest.update(str(examples.lengths).encode())
    if spec.mix:
        digest.update(memoryview(examples.starts))
    return digest.hexdigest()


# -- load ----------------------------------------------------------------------------------


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


def load_model(spec: RunSpec, base: Path, examples: Examples) -> Any:
    """The model with everything frozen that the method does not train.

    On a GPU a frozen base stays in bfloat16; what is trained is always float32.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    torch.set_num_threads(spec.threads)
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise StageError("no_device", N_("The node has no usable GPU for this run."))
    hp = spec.hyperparameters
    set_seed(hp.seed)
    frozen = spec.device == "cuda" and spec.method == "lora" and bf16(spec)
    dtype = torch.bfloat16 if frozen else torch.float32
    missing: list[str] = []
    try:
        if spec.stage == "pretrain" and not any(base.glob("*.safetensors")):
            say("The base has no weights: starting from random ones")
            config = AutoConfig.from_pretrained(base, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            model, about = AutoModelForCausalLM.from_pretrained(
                base,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            missing = sorted(about["missing_keys"])
    except Exception as error:  # whatever a stranger's files make of our libraries
        if named(error).code != "crashed":  # the disk or the memory, not the model
            raise
        raise bad_model(error) from error
    if missing:
        raise bad_model(ValueError(f"weights are missing: {', '.join(missing[:5])}"))
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
    if spec.method == "lora" or spec.adapter:
        model = with_adapter(spec, model)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in model.parameters())
    say(f"{whole:,} parameters, {trained:,} of them trained ({100 * trained / whole:.2f} %)")
    return model


def with_adapter(spec: RunSpec, model: Any) -> Any:
    """`model` with a new adapter on all its linear layers, or with the given one to go on with."""
    from peft import LoraConfig, PeftModel, get_peft_model

    hp = spec.hyperparameters
    if not spec.adapter:
        return get_peft_model(
            model,
            LoraConfig(
                r=hp.lora_rank,
                lora_alpha=hp.lora_alpha,
                lora_dropout=hp.lora_dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    say("Goes on with the given adapter: its rank, alpha and dropout hold")
    model = PeftModel.from_pretrained(
        model, spec.adapter, is_trainable=spec.method == "lora", local_files_only=True
    )
    return model if spec.method == "lora" else model.merge_and_unload().requires_grad_(True)


def bad_model(error: Exception) -> StageError:
    return StageError(
        "bad_model", N_("The model cannot be loaded: %(reason)s"), reason=str(error)[:1000]
    )


# -- save ----------------------------------------------------------------------------------


def stored_dtype(config: dict[str, Any]) -> Any:
    """In which the base was stored, and so is what comes of it."""
    import torch

    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, name) if name in {"bfloat16", "float16"} else torch.float32


def peak_memory(device: str) -> int:
    """Bytes: of the GPU's memory, or of the process's."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def libraries() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


if __name__ == "__main__":
    sys.exit(execute(train))
