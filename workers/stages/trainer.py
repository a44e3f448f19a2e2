"""The training loop: transformers' Trainer with our own batches, loss, records and checkpoints.

To the Trainer the run is one epoch of `plan.total` batches, and a batch is a whole step. The step
is cut into forward passes here, so that its loss and its gradient are the mean over all its
trained tokens, however many passes that takes.
"""

import inspect
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from app.errors import N_
from app.jobs.spec import Hyperparameters
from workers.stages import checkpoints
from workers.stages.batches import Plan, passes
from workers.stages.checkpoints import Progress
from workers.stages.prepare import Examples
from workers.stages.run import Run, StageError, say

IGNORE = -100
Pass = dict[str, torch.Tensor]


def collate(examples: Examples, rows: list[int]) -> Pass:
    """{input_ids, labels: (rows, tokens) int64}; labels are shifted: what follows each token.

    Padding stands on the right and carries no label. No token sees what comes after it, so no
    token sees padding, and the attention needs no mask.
    """
    widest = max(examples.lengths[row] for row in rows)
    ids = torch.zeros(len(rows), widest, dtype=torch.int64)
    labels = torch.full((len(rows), widest), IGNORE)
    for place, row in enumerate(rows):
        tokens, trained = examples[row]
        length = len(tokens)
        ids[place, :length] = torch.frombuffer(tokens, dtype=torch.int32)
        following = torch.frombuffer(trained, dtype=torch.bool)[1:]
        labels[place, : length - 1][following] = ids[place, 1:length][following]
    return {"input_ids": ids, "labels": labels}


def cut(examples: Examples, rows: list[int], hyperparameters: Hyperparameters) -> Iterator[Pass]:
    """The forward passes of a step (or of an evaluation)."""
    for few in passes(
        rows,
        examples.lengths,
        most_rows=hyperparameters.batch_size,
        most_tokens=hyperparameters.batch_tokens,
    ):
        yield collate(examples, few)


def nll(model: Any, batch: Pass, device: torch.device, *, narrow: bool) -> torch.Tensor:
    """The summed negative log likelihood of a pass's trained tokens (nats).

    With `narrow` the model makes logits only for the columns where some row has a label: with a
    large vocabulary and long prompts they are most of the work.
    """
    labels = batch["labels"].to(device, non_blocking=True)
    ids = batch["input_ids"].to(device, non_blocking=True)
    columns = (labels != IGNORE).any(0).nonzero()[:, 0]
    extra = {"logits_to_keep": columns} if narrow else {}
    logits = model(input_ids=ids, use_cache=False, **extra).logits
    kept = labels[:, columns]
    wanted = kept != IGNORE
    chosen = logits[wanted] if narrow else logits[:, columns][wanted]
    return cross_entropy(chosen.float(), kept[wanted], reduction="sum")


class Steps:
    """What the Trainer iterates over: the plan's steps after those already taken."""

    def __init__(self, plan: Plan, examples: Examples, hp: Hyperparameters, done: int) -> None:
        self.plan, self.examples, self.hp, self.done = plan, examples, hp, done

    def __len__(self) -> int:
        return self.plan.total

    def __iter__(self) -> Iterator[list[Pass]]:
        for step in range(self.done + 1, self.plan.total + 1):
            yield list(cut(self.examples, self.plan.step(step), self.hp))


class StepTrainer(Trainer):
    """See the module. `fit` is the way in."""

    def __init__(
        self,
        model: Any,
        run: Run,
        hyperparameters: Hyperparameters,
        progress: Progress,
        *,
        cuda: bool,
        examples: Examples,
        validation: Examples | None,
    ) -> None:
        hp = hyperparameters
        self.run, self.hp, self.progress = run, hp, progress
        self.plan = Plan(examples.lengths, hp)
        self.steps = Steps(self.plan, examples, hp, progress.step)
        self.validation = validation
        self.saved = time.monotonic()
        self.saving = 0.0  # seconds that the last checkpoint took
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.narrow = "logits_to_keep" in inspect.signature(base.forward).parameters
        arguments = TrainingArguments(
            output_dir=str(run.checkpoints),
            max_steps=self.plan.total,
            learning_rate=hp.learning_rate,
            lr_scheduler_type={"constant": "constant_with_warmup"}.get(
                hp.lr_scheduler, hp.lr_scheduler
            ),
            warmup_steps=math.ceil(hp.warmup_ratio * self.plan.total),
            weight_decay=hp.weight_decay,
            max_grad_norm=0,  # clipped in training_step
            seed=hp.seed,
            optim="adamw_torch_fused" if cuda else "adamw_torch",
            use_cpu=not cuda,
            bf16=cuda and torch.cuda.is_bf16_supported(),
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            logging_nan_inf_filter=False,
            ignore_data_skip=True,  # `steps` begins where the run does
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        super().__init__(model=model, args=arguments, callbacks=[Milestones(self)])
        self.remove_callback(PrinterCallback)

    def fit(self, resume_from: str | None) -> Progress:
        """Take all steps that are left. `run.stop_asked` tells whether it ended early."""
        self.train(resume_from_checkpoint=resume_from)
        return self.progress

    # -- a step ----------------------------------------------------------------------------

    def get_train_dataloader(self) -> Steps:
        return self.steps

    def get_batch_samples(self, epoch_iterator: Iterator[list[Pass]], *_: Any) -> tuple[Any, None]:
        following = next(epoch_iterator, None)
        return ([] if following is None else [following]), None

    def training_step(self, model: Any, inputs: list[Pass], *_: Any) -> torch.Tensor:
        """Gradients of one step, clipped. Raises StageError when they are no numbers any more."""
        began = time.monotonic()
        model.train()
        device = self.args.device
        trained = sum(int((batch["labels"] != IGNORE).sum()) for batch in inputs)
        loss = torch.zeros((), device=device)
        for batch in inputs:
            self.run.check_overdue()
            part = nll(model, batch, device, narrow=self.narrow) / trained
            self.accelerator.backward(part)
            loss += part.detach()
        parameters = [weight for weight in model.parameters() if weight.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.hp.max_grad_norm)
        now = {
            "loss": float(loss),
            "lr": self.lr_scheduler.get_last_lr()[0],
            "grad_norm": float(norm),
            "tokens": self.tokens(self.state.global_step + 1),
        }
        if not math.isfinite(now["loss"]) or not math.isfinite(now["grad_norm"]):
            raise diverged(self.state.global_step + 1)
        self.now, self.took = now, time.monotonic() - began
        return loss

    def tokens(self, step: int) -> int:
        """Tokens of a step's rows, without padding."""
        return sum(self.steps.examples.lengths[row] for row in self.plan.step(step))

    def floating_point_ops(self, _: Any) -> int:
        return 0  # nobody asks

    def log(self, *_: Any) -> None:
        """The Trainer's own records are not kept: they grow with the run, in memory and on disk."""

    def record(self, step: int) -> None:
        """The step's line in metrics.jsonl, and now and then in the log."""
        now, progress = self.now, self.progress
        progress.step, progress.loss = step, now["loss"]
        progress.tokens += now["tokens"]
        progress.seconds += self.took
        epoch = round(step / self.plan.per_epoch, 4)
        self.run.metric({"step": step, "epoch": epoch} | now)
        self.run.progress(step)
        if step % self.hp.logging_steps == 0 or step in {1, self.plan.total}:
            say(
                f"step {step}/{self.plan.total}  epoch {epoch:.2f}  loss {now['loss']:.4f}"
                f"  lr {now['lr']:.2e}  grad {now['grad_norm']:.2f}"
                f"  {now['tokens'] / max(self.took, 1e-6):,.0f} tokens/s"
            )

    # -- evaluation ------------------------------------------------------------------------

    def eval_is_due(self, step: int) -> bool:
        every = self.hp.eval_steps or self.plan.per_epoch
        return self.validation is not None and (step % every == 0 or step == self.plan.total)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all trained tokens of the validation data."""
        self.control.should_evaluate = False
        examples = self.validation
        if examples is None:
            return {}
        step, model = self.progress.step, self.model_wrapped
        self.progress.eval_due = True
        model.eval()
        total = 0.0
        with torch.no_grad():
            for batch in cut(examples, list(range(len(examples))), self.hp):
                if self.run.stop_asked:  # the next attempt begins with this evaluation
                    self.control.should_save = self.control.should_training_stop = True
                    return {}
                total += float(nll(model, batch, self.args.device, narrow=self.narrow))
        loss = total / examples.trained.count(1)
        self.progress.eval_due, self.progress.eval_loss = False, loss
        epoch = round(step / self.plan.per_epoch, 4)
        self.run.metric({"step": step, "epoch": epoch, "eval_loss": loss})
        say(f"step {step}/{self.plan.total}  epoch {epoch:.2f}  eval loss {loss:.4f}")
        return {}

    # -- checkpoints -----------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, *_: Any, **__: Any) -> None:
        """Weights only; the Trainer would add a pickle of its arguments."""
        assert output_dir
        save_weights(self.model, Path(output_dir))

    def _save_checkpoint(self, *arguments: Any) -> None:
        """The Trainer's, completed; from then on it counts, and older ones are dropped."""
        began, step = time.monotonic(), self.progress.step
        super()._save_checkpoint(*arguments)
        checkpoints.finish(self.run.checkpoints / f"checkpoint-{step}", self.progress)
        self.run.event("checkpoint", N_("Checkpoint at step %(step)s."), step=step)
        checkpoints.prune(self.run.checkpoints, self.hp.keep_checkpoints)
        self.saved = time.monotonic()
        self.saving = self.saved - began


class Milestones(TrainerCallback):
    """After each step: record it, and decide whether to evaluate, to save, to stop."""

    def __init__(self, trainer: StepTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self.trainer.progress.eval_due:
            self.trainer.evaluate()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, step = self.trainer, int(state.global_step)
        hp, stop = trainer.hp, trainer.run.stop_asked is not None
        trainer.record(step)
        if trainer.run.finish_asked and step < trainer.plan.total:
            trainer.run.event("finish", N_("Stops after step %(step)s, as asked."), step=step)
            trainer.plan.total = trainer.run.total = step
            control.should_training_stop = True
        if step == trainer.plan.total:
            control.should_evaluate = trainer.eval_is_due(step)
            return  # what was learnt is saved at once: no checkpoint
        trainer.progress.eval_due = trainer.eval_is_due(step)
        control.should_evaluate = trainer.progress.eval_due and not stop
        # A checkpoint of a large model takes long: never spend more than a tenth of the time.
        every = max(hp.save_seconds, 10 * trainer.saving)
        by_step = hp.save_steps is not None and step % hp.save_steps == 0
        control.should_save = stop or by_step or time.monotonic() - trainer.saved > every
        control.should_training_stop = stop


def save_weights(model: Any, directory: Path) -> None:
    """Safetensors and config; of an adapter, only the adapter's."""
    if hasattr(model, "peft_config"):
        model.save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(str(directory), max_shard_size="5GB")


def diverged(step: int) -> StageError:
    return StageError(
        "diverged",
        N_(
            "The loss is no number any more at step %(step)s: training diverged. Lower the learning"
            " rate (a third of it is a good next try) or the maximum gradient norm, or lengthen the"
            " warm-up."
        ),
        step=step,
    )
