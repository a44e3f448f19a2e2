"""What every trainer of ours does beside training: record, evaluate, save, and stop in time.

A mixin over transformers' Trainer (and TRL's, which are Trainers): `watch` first, then the
Trainer's own `__init__` with `arguments(...)` among its arguments and `Milestones(self)` among
its callbacks. What a trainer adds are `self.now`, the figures of a step, and `measure`.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from app.errors import N_
from app.jobs.spec import Hyperparameters
from workers.stages import adapters, checkpoints
from workers.stages.adapters import Update
from workers.stages.batches import Plan
from workers.stages.checkpoints import Progress
from workers.stages.run import Run, StageError, say

Sampler = Callable[[Any], list[str]]  # the model → its answers to the sample prompts


def arguments(
    run: Run, hp: Hyperparameters, total: int, *, cuda: bool, bf16: bool
) -> dict[str, Any]:
    """TrainingArguments of a run of `total` steps that we log, evaluate and save ourselves."""
    return {
        "output_dir": str(run.checkpoints),
        "max_steps": total,
        "learning_rate": hp.learning_rate,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(
            hp.lr_scheduler, hp.lr_scheduler
        ),
        "warmup_steps": math.ceil(hp.warmup_ratio * total),
        "weight_decay": hp.weight_decay,
        "seed": hp.seed,
        "optim": "adamw_torch_fused" if hp.optimizer == "adamw" else hp.optimizer,
        "neftune_noise_alpha": hp.neftune_alpha,  # arXiv:2310.05914: ± alpha / √(tokens × width)
        "use_cpu": not cuda,
        "bf16": bf16,
        "ddp_backend": None if run.ranks == 1 else "nccl" if cuda else "gloo",
        "ddp_find_unused_parameters": None if run.ranks == 1 else False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


class Recorded:
    """See the module."""

    # of the Trainer
    model: Any
    model_wrapped: Any
    control: Any
    args: Any
    accelerator: Any

    before: list[Update] = []  # what belongs to the result besides what is learnt
    save_at: list[int] = []  # steps whose checkpoints are saved and stay

    def watch(
        self,
        run: Run,
        hyperparameters: Hyperparameters,
        progress: Progress,
        plan: Plan,
        *,
        validates: bool,
        sampler: Sampler | None,
    ) -> None:
        self.run, self.hp, self.progress = run, hyperparameters, progress
        self.plan, self.total, self.per_epoch = plan, plan.total, plan.per_epoch
        self.validates, self.sampler = validates, sampler
        self.now: dict[str, Any] = {}
        self.took = 0.0  # seconds of the last step
        self.saved = time.monotonic()
        self.saving = 0.0  # seconds that the last checkpoint took
        # what all processes agreed on: to stop, to save, to make this step the last
        self.stops = self.due = self.finishes = False

    def fit(self, resume_from: str | None) -> Progress:
        """Take all steps that are left. `run.stop_asked` tells whether it ended early."""
        if resume_from and self.progress.best_step and self.run.rank == 0:
            best = Path(resume_from).with_name(f"checkpoint-{self.progress.best_step}")
            checkpoints.carry(best, self.run.checkpoints)
        self.train(resume_from_checkpoint=resume_from)  # type: ignore[attr-defined]
        if self.ended():
            self.run.total = self.progress.step  # an early end is an end
            self.take_best()
        return self.progress

    def ended(self) -> bool:
        done = self.progress.early or self.progress.step >= self.total
        return done and not self.progress.eval_due

    def log(self, *_: Any, **__: Any) -> None:
        """The Trainer's own records are not kept: they grow with the run, in memory and on disk."""

    def floating_point_ops(self, _: Any) -> int:
        return 0  # nobody asks

    def create_optimizer(self, model: Any = None) -> Any:
        """LoRA+ (Hayou et al. 2024, arXiv:2402.12354) gives the B matrices a higher rate than A's:
        with one rate for both, wide models learn less than they could.
        """
        model = model or self.model
        if self.hp.loraplus_ratio is None or not hasattr(model, "peft_config"):
            return super().create_optimizer(model)  # type: ignore[misc]
        from peft.optimizers import create_loraplus_optimizer

        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)  # type: ignore[attr-defined]
        self.optimizer = create_loraplus_optimizer(
            model,
            kind,
            loraplus_lr_ratio=self.hp.loraplus_ratio,
            loraplus_weight_decay=self.hp.weight_decay,
            **options,
        )
        return self.optimizer

    # -- a step ----------------------------------------------------------------------------

    def record(self, step: int) -> None:
        """The step's line in metrics.jsonl, and now and then in the log."""
        now, progress = self.now, self.progress
        progress.step, progress.loss = step, now["loss"]
        progress.tokens += now["tokens"]
        progress.seconds += self.took
        epoch = self.epoch(step)
        self.run.metric({"step": step, "epoch": epoch} | now)
        self.run.progress(step)
        if step % self.hp.logging_steps == 0 or step in {1, self.total}:
            say(
                f"step {step}/{self.total}  epoch {epoch:.2f}  loss {now['loss']:.4f}"
                f"  lr {now['lr']:.2e}  grad {now['grad_norm']:.2f}"
                f"  {now['tokens'] / max(self.took, 1e-6):,.0f} tokens/s"
            )

    def epoch(self, step: int) -> float:
        return round(step / self.per_epoch, 4)

    def finite(self, now: dict[str, Any], step: int) -> None:
        """Raises StageError when loss or gradient are no numbers any more."""
        if not math.isfinite(now["loss"]) or not math.isfinite(now["grad_norm"]):
            raise diverged(step)

    def agree(self, *sums: torch.Tensor) -> list[float]:
        """`sums` over all processes, which also learn whether to stop, to save and to end after this
        step.

        By the time: a checkpoint of a large model takes long, so never spend more than a tenth of
        it; of several processes the first one's clock counts.
        """
        due = time.monotonic() - self.saved > max(self.hp.save_seconds, 10 * self.saving)
        asked = self.run.stop_asked is not None
        first = self.run.rank == 0
        flags = [float(asked), float(due and first), float(first and self.run.finish_asked)]
        device = self.args.device
        numbers = torch.stack(
            [*(one.double() for one in sums), *torch.tensor(flags).double().to(device)]
        )
        if self.run.ranks > 1:
            torch.distributed.all_reduce(numbers)
        found: list[float] = numbers.tolist()
        self.stops, self.due, self.finishes = (one > 0 for one in found[-3:])
        return found[:-3]

    # -- evaluation ------------------------------------------------------------------------

    def eval_is_due(self, step: int) -> bool:
        every = self.hp.eval_steps or self.per_epoch
        wanted = self.validates or self.sampler is not None
        return wanted and (step % every == 0 or step == self.total)

    def measure(self) -> dict[str, float] | None:
        """{eval_loss, eval_accuracy, …} of the validation data; None when asked to stop meanwhile."""
        raise NotImplementedError

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validation loss and sample answers of the present step; what follows from them."""
        self.control.should_evaluate = False
        progress, step = self.progress, self.progress.step
        progress.eval_due = True
        self.model_wrapped.eval()
        found: dict[str, float] | None = {}
        if self.validates:
            with torch.no_grad():
                found = self.measure()
        if found is None:  # the next attempt begins with this evaluation
            self.control.should_save = self.control.should_training_stop = True
            return {}
        progress.eval_due = False
        if found:
            self.run.metric({"step": step, "epoch": self.epoch(step)} | found)
            more = "".join(f"  {name} {value:.4f}" for name, value in found.items())
            say(f"step {step}/{self.total}  epoch {self.epoch(step):.2f}{more}")
            self.judge(found["eval_loss"])
        self.sample()
        return {}

    def judge(self, loss: float) -> None:
        """Remember the best, and stop when it has long been behind."""
        progress, step = self.progress, self.progress.step
        progress.eval_loss = loss
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = loss, step, 0
            # of the last step, what was learnt is saved at once
            self.control.should_save |= self.hp.keep_best and step < self.total
            return
        progress.worse += 1
        patience = self.hp.early_stopping_patience
        if patience and progress.worse >= patience and step < self.total:
            progress.early = True
            self.control.should_training_stop = True
            self.run.event(
                "early_stop",
                N_(
                    "Stopped early at step %(step)s: the validation loss has not fallen below that"
                    " of step %(best)s for %(count)s evaluations."
                ),
                step=step,
                best=progress.best_step,
                count=progress.worse,
            )

    def take_best(self) -> None:
        """The weights of the best evaluation become the result, where that is wanted."""
        progress = self.progress
        if not self.hp.keep_best or not self.validates or progress.best_step == progress.step:
            return
        best = self.run.checkpoints / f"checkpoint-{progress.best_step}"
        if not (best / checkpoints.COMPLETE).exists():
            return
        self._load_from_checkpoint(str(best), self.model)  # type: ignore[attr-defined]
        self.run.event(
            "best",
            N_(
                "The result is the model of step %(step)s, whose validation loss of %(loss)s was"
                " the lowest."
            ),
            step=progress.best_step,
            loss=round(progress.best_loss or 0.0, 4),
        )

    def sample(self) -> None:
        """Answer the sample prompts: base beside tuned."""
        if self.sampler is None:
            return
        answers = self.sampler(self.model)
        pairs = zip(self.hp.sample_prompts, self.progress.base_answers, answers, strict=False)
        for prompt, base, tuned in pairs:
            self.run.event(
                "sample",
                N_("An answer at step %(step)s."),
                step=self.progress.step,
                prompt=prompt,
                base=base,
                tuned=tuned,
            )

    def ask_base(self) -> None:
        """Before the first step: what the base says, adapters laid aside."""
        if self.sampler is None or self.progress.base_answers:
            return
        self.model_wrapped.eval()
        if hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                self.progress.base_answers = self.sampler(self.model)
        else:
            self.progress.base_answers = self.sampler(self.model)

    # -- checkpoints -----------------------------------------------------------------------

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Weights only; the Trainer would add a pickle of its arguments. `whole` is the adapter as
        it belongs to the base, where that is not what is trained: see adapters.save_sum.
        """
        assert output_dir
        if self.run.rank == 0:
            model = self.accelerator.unwrap_model(self.model)
            save_weights(model, Path(output_dir), state_dict)
            if self.before:
                adapters.save_sum(model, self.before, Path(output_dir) / checkpoints.WHOLE)

    def _save_checkpoint(self, *arguments: Any) -> None:
        """The Trainer's, completed; from then on it counts, and older ones are dropped."""
        began, step = time.monotonic(), self.progress.step
        super()._save_checkpoint(*arguments)  # type: ignore[misc]
        if self.run.ranks > 1:
            torch.distributed.barrier()  # each has its random numbers on disk
        if self.run.rank == 0:
            checkpoints.finish(self.run.checkpoints / f"checkpoint-{step}", self.progress)
            self.run.event("checkpoint", N_("Checkpoint at step %(step)s."), step=step)
            best = [self.progress.best_step] if self.hp.keep_best else []
            stay = [*self.save_at, *best]
            checkpoints.prune(self.run.checkpoints, self.hp.keep_checkpoints, stay)
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def part(self) -> None:
        """Let the other processes go, once the first has saved."""
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class Milestones(TrainerCallback):
    """After each step: record it, and decide whether to evaluate, to save, to stop."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        trainer = self.trainer
        trainer.ask_base()
        if trainer.progress.eval_due:
            trainer.evaluate()
            if trainer.control.should_save and not trainer.control.should_training_stop:
                trainer._save_checkpoint(trainer.model, None)  # noqa: SLF001 - the Trainer's name
                trainer.control.should_save = False

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, step = self.trainer, int(state.global_step)
        hp, alone = trainer.hp, trainer.run.ranks == 1
        stop = trainer.stops or (alone and trainer.run.stop_asked is not None)
        trainer.record(step)
        if trainer.finishes and step < trainer.total:
            trainer.run.event("finish", N_("Stops after step %(step)s, as asked."), step=step)
            trainer.total = trainer.run.total = step
            control.should_training_stop = True
        if step == trainer.total:
            control.should_evaluate = trainer.eval_is_due(step)
            return  # what was learnt is saved at once: no checkpoint
        trainer.progress.eval_due = trainer.eval_is_due(step)
        control.should_evaluate = trainer.progress.eval_due and not stop
        by_step = hp.save_steps is not None and step % hp.save_steps == 0
        by_step = by_step or step in trainer.save_at
        control.should_save = stop or by_step or trainer.due
        control.should_training_stop = stop


def save_weights(model: Any, directory: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Safetensors and config; of an adapter, only the adapter's."""
    if hasattr(model, "peft_config"):
        model.save_pretrained(
            str(directory),
            save_embedding_layers=False,
            selected_adapters=["default"],
            state_dict=state_dict,
        )
        (directory / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(str(directory), max_shard_size="5GB", state_dict=state_dict)


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
