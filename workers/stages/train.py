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
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import RunSpec
from app.models import chat_template
from app.models.chat_template import ChatTemplate
from workers.stages import checkpoints, models
from workers.stages.checkpoints import Progress
from workers.stages.mixing import Data
from workers.stages.prepare import Examples, Prepare
from workers.stages.reports import reported
from workers.stages.run import Run, StageError, Stopped, execute, named, quiet, say

# Settings that change how a run is watched, but not what it computes.
HARMLESS = {"logging_steps", "eval_steps", "save_steps", "save_seconds", "keep_checkpoints"}


def train(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: what are we given, and may we use it?
    say(f"Job {spec.job_id}, attempt {spec.fence}: {spec.stage} {spec.method}")
    quiet(spec.threads)
    base = Path(spec.base)
    config = models.check_base(base, weights=spec.stage == "sft")
    if spec.adapter:
        models.check_adapter(Path(spec.adapter))
    resume = Path(spec.resume_from) if spec.resume_from else None
    progress = checkpoints.load(resume) if resume else Progress(began=time.time())

    # -- prepare: rows to tokens and masks
    vocabulary = load_vocabulary(base, spec)
    source = open_data(run, spec)
    mix = source.report_mix()
    examples, data = prepare(run, spec, config, vocabulary, progress, source, "train")
    source.spread(examples)
    validation, checks = None, None
    if source.validates:
        validation, checks = prepare(run, spec, config, vocabulary, progress, source, "validation")
    stops = stop_tokens(run, vocabulary, examples)
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
    from workers.stages.trainer import StepTrainer, save_weights

    trainer = StepTrainer(
        model,
        run,
        spec.hyperparameters,
        progress,
        cuda=spec.device == "cuda",
        examples=examples,
        validation=validation,
    )

    # -- fit: from here on SIGTERM waits for the end of a step, and leaves a checkpoint
    run.patient = True
    run.step, run.total = progress.step, trainer.plan.total
    run.forget_after(progress.step)
    run.enter("train")
    if resume:
        run.event("resumed", N_("Goes on after step %(step)s."), step=progress.step)
    with reported(run, spec):
        progress = trainer.fit(str(resume) if resume else None)
    if progress.step < run.total or progress.eval_due:
        raise Stopped

    # -- save: what a later stage or an engine needs, and nothing of this run's making
    run.enter("save")
    target = run.directory / ("adapter" if spec.method == "lora" else "model")
    if spec.method == "lora":
        model.peft_config["default"].base_model_name_or_path = base.name  # not a path of this node
    else:
        model.to(stored_dtype(config))
    save_weights(model, target)
    models.carry_tokenizer(base, target, vocabulary.template)
    models.write_generation_config(base, target, stops)
    return {
        "kind": target.name,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss,
        "eval_loss": progress.eval_loss,
        "data": data,
        "mix": mix,
        "validation": checks,
        "stop_token_ids": stops,
        "peak_memory": peak_memory(spec.device),
        "libraries": libraries(),
    }


# -- prepare -------------------------------------------------------------------------------


@dataclass
class Vocabulary:
    tokenizer: Any  # transformers' own, because the engine will use that too
    template: ChatTemplate | None
    special: set[int]
    stops: list[int]  # where engines stop
    around: tuple[list[int], list[int]]  # ids that open and close a document


def load_vocabulary(base: Path, spec: RunSpec) -> Vocabulary:
    """The model's tokenizer and template. Raises StageError when they cannot be trained with."""
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    template = chat_template.load(base)
    if template is None and spec.stage == "sft":
        raise StageError(
            "no_chat_template",
            N_("The model has no chat template, so conversations cannot be put into its words."),
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises nothing more precise
        raise bad_model(error) from error
    if not tokenizer.is_fast:
        raise StageError(
            "bad_model",
            N_("The model has no tokenizer.json, which training needs."),
            file="tokenizer",
        )
    tokens = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in tokens if token.special}
    opening = tokenizer.encode("a")[: -len(tokenizer.encode("a", add_special_tokens=False))]
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stops = models.stop_tokens(base) or closing
    return Vocabulary(
        tokenizer,
        template,
        special | set(tokenizer.all_special_ids) | set(stops),
        stops,
        ([token for token in opening if token == tokenizer.bos_token_id], closing),
    )


def open_data(run: Run, spec: RunSpec) -> Data:
    """The rows to train and to validate on. Raises StageError."""
    try:
        return Data(run, spec)
    except FileNotFoundError as error:
        raise data_missing(error) from error


def prepare(
    run: Run,
    spec: RunSpec,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    progress: Progress,
    source: Data,
    name: str,
) -> tuple[Examples, dict[str, int]]:
    """Tokenise the `train` or `validation` data, and say what became of its rows."""
    wanted = spec.hyperparameters.max_length
    known = (config.get("text_config") or config).get("max_position_embeddings") or wanted
    if known < wanted and name == "train":
        run.event(
            "warning",
            N_("The model reads at most %(known)s tokens, so rows are cut there."),
            known=known,
        )
    work = Prepare(
        run=run,
        tokenizer=vocabulary.tokenizer.backend_tokenizer,
        template=vocabulary.template,
        special=vocabulary.special,
        stops=set(vocabulary.stops),
        around=vocabulary.around,
        max_length=min(wanted, known),
        pretrain=spec.stage == "pretrain",
        now=datetime.fromtimestamp(progress.began),  # noqa: DTZ006 - as the engine's own clock
    )
    try:
        work.read(source.training() if name == "train" else source.validating())
    except FileNotFoundError as error:
        raise data_missing(error) from error
    leaks = source.report_leaks() if name == "validation" else {}
    return work.examples, leaks | work.report(name)


def data_missing(error: FileNotFoundError) -> StageError:
    return StageError(
        "data_missing", N_("The data is not on this node: %(file)s"), file=error.filename
    )


def stop_tokens(run: Run, vocabulary: Vocabulary, examples: Examples) -> list[int]:
    """Where an engine has to stop: what the model says, and what its answers were trained with."""
    if new := sorted(examples.stops - set(vocabulary.stops)):
        run.event(
            "warning",
            N_(
                "Answers end with %(tokens)s, where the base model does not stop; the tuned one does."
            ),
            tokens=" ".join(vocabulary.tokenizer.convert_ids_to_tokens(new)),
        )
    return vocabulary.stops + new


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
    frozen = spec.device == "cuda" and spec.method == "lora" and torch.cuda.is_bf16_supported()
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
