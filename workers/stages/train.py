"""Tune a model: `python -m workers.stages.train RUN_DIR`. Reads from top to bottom.

Prepare the rows, load the model, take the steps, save what was learnt. Everything it knows comes
from `RUN_DIR/spec.json`; everything it says goes into RUN_DIR (see run.py). It may be killed at
any moment: another attempt goes on from the last complete checkpoint, and the curve with it.
"""

import hashlib
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs import methods
from app.jobs.spec import RunSpec
from app.models import vocabulary
from app.models.vocabulary import Vocabulary
from workers.stages import adapters, checkpoints, models, tokens
from workers.stages.checkpoints import Progress
from workers.stages.loading import bf16, load_model
from workers.stages.prepare import Examples
from workers.stages.run import Run, StageError, Stopped, execute, leave, leave_out, quiet, say

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
    leave_out(*spare(spec))
    base = Path(spec.base)
    config = models.check_base(base, weights=spec.stage != "pretrain")
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
    if not run.rank:
        models.write_words(base, run.directory / "words", words.template, stops)
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
    loaded = load_model(spec, base, examples)
    model = loaded.model
    from workers.stages.records import save_weights
    from workers.stages.samples import sampler

    options: dict[str, Any] = {
        "cuda": spec.device == "cuda",
        "bf16": bf16(spec),
        "examples": examples,
        "validation": made.validation,
        "sampler": sampler(run, spec, words, stops) if spec.stage != "reward" else None,
    }
    if spec.stage in methods.PREFERENCES:
        from workers.stages.preferences import trainer_of

        shape = trainer_of(spec)
        options |= {"spec": spec, "fresh": loaded.fresh}
    else:
        from workers.stages.trainer import StepTrainer

        shape = StepTrainer
        options["fsdp"] = spec.strategy == "fsdp" and run.ranks > 1
    trainer = shape(model, run, spec.hyperparameters, progress, **options)
    trainer.before, trainer.save_at = loaded.before, spec.save_at

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
    whole = spec.method not in methods.ADAPTERS or spec.stage == "reward"
    target = run.directory / ("model" if whole else "adapter")
    if spec.method in methods.ADAPTERS:
        model.peft_config["default"].base_model_name_or_path = base.name  # not a path of this node
    if run.ranks > 1 and spec.strategy == "fsdp":
        trainer.gather(target, stored_dtype(config))
    elif run.rank == 0 and whole:
        model = model.merge_and_unload() if hasattr(model, "peft_config") else model
        save_weights(model.to(stored_dtype(config)), target)
    elif run.rank == 0 and loaded.before:
        adapters.save_sum(model, loaded.before, target)
        say("Saved as one adapter, with what training began from")
    elif run.rank == 0:
        save_weights(model, target)
    if run.ranks > 1:
        trainer.part()
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


def spare(spec: RunSpec) -> set[str]:
    """Libraries that this run does not need."""
    found = {"datasets", "trl", "pandas", "sklearn", "scipy", "bitsandbytes"}
    if spec.method == "qlora":
        found -= {"bitsandbytes", "scipy"}
    if spec.stage in methods.PREFERENCES:
        found -= {"datasets", "trl", "pandas"}
    return found


def load_vocabulary(base: Path, spec: RunSpec) -> Vocabulary:
    """The model's tokenizer and template. Raises StageError when they cannot be trained with."""
    if not (base / "tokenizer.json").is_file():
        raise StageError(
            "bad_model",
            N_("The model has no tokenizer.json, which training needs."),
            file="tokenizer",
        )
    words = vocabulary.load(base)
    if words.template is None and spec.stage != "pretrain":
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
    settings = spec.hyperparameters.model_dump_json(exclude=HARMLESS, exclude_defaults=True)
    digest = hashlib.sha256(f"{spec.stage} {spec.method} {settings}".encode())
    digest.update((base / "config.json").read_bytes())
    digest.update(memoryview(examples.ids))
    digest.update(examples.trained)
    digest.update(str(examples.lengths).encode())
    if spec.stage in methods.PREFERENCES:
        digest.update(memoryview(examples.good))
    if spec.mix:
        digest.update(memoryview(examples.starts))
    return digest.hexdigest()


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
    leave(execute(train))
