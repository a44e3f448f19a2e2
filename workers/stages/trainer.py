"""The training loop: transformers' Trainer with our own batches, loss, records and checkpoints.

To the Trainer the run is one epoch of `plan.total` batches, and a batch is a whole step. The step
is cut into forward passes here, so that its loss and its gradient are the mean over all its
trained tokens, however many passes and devices that takes:

    loss = 1/N  sum over tokens of  weight x -log p(token | those before it)

with N the trained tokens of the step (weight > 0), over all passes of all devices.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from app.jobs.spec import Hyperparameters
from workers.stages import losses, packing, sharding
from workers.stages.batches import Plan, deal, passes
from workers.stages.checkpoints import Progress
from workers.stages.prepare import Examples
from workers.stages.records import Milestones, Recorded, Sampler, arguments, save_weights
from workers.stages.run import Run, say

__all__ = ["StepTrainer", "save_weights"]


@dataclass
class Pass:
    """One forward pass. Tokens without a label never reach the model's head."""

    ids: Tensor  # (rows, tokens) int64; padding stands on the right
    wanted: Tensor  # places, in the flattened ids, of the tokens whose next one carries loss
    labels: Tensor  # the next tokens there
    weights: Tensor  # of their losses, float32
    lengths: list[int] | None = None  # of rows that lie end to end in one


def collate(examples: Examples, rows: list[int], *, packed: bool) -> Pass:
    """Side by side, padded to the longest, or end to end.

    No token sees what comes after it, so no token sees padding: the attention needs no mask.
    No rows: a pass of one token and no loss, for a device that has nothing else to do.
    """
    lengths = [examples.lengths[row] for row in rows] or [1]
    widest = sum(lengths) if packed else max(lengths)
    ids = torch.zeros(1 if packed else len(lengths), widest, dtype=torch.int64)
    flat, places, labels, weights, start = ids.view(-1), [], [], [], 0
    for row, length in zip(rows, lengths, strict=False):
        tokens, trained = examples[row]
        flat[start : start + length] = torch.frombuffer(tokens, dtype=torch.int32)
        weight = torch.frombuffer(trained, dtype=torch.uint8)[1:]
        at = weight.nonzero()[:, 0]
        places.append(at + start)
        labels.append(flat[start + 1 : start + length][at])
        weights.append(weight[at])
        start += length if packed else widest
    empty = [torch.zeros(0, dtype=torch.int64)]
    return Pass(
        ids,
        torch.cat(places or empty),
        torch.cat(labels or empty),
        torch.cat(weights or empty) / 100,
        lengths if packed else None,
    )


def score(model: Any, batch: Pass, device: torch.device, *, scoring: bool) -> tuple[Tensor, Tensor]:
    """The summed loss of a pass (nats), and how many tokens were guessed right.

    `scoring`: the model does it itself, without logits of the whole batch; see losses.
    """
    ids, wanted, labels, weights = (
        one.to(device, non_blocking=True)
        for one in (batch.ids, batch.wanted, batch.labels, batch.weights)
    )
    extra: dict[str, Any] = {}
    if batch.lengths is not None:
        lengths = torch.tensor(batch.lengths)
        ends = lengths.cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(device, torch.int32)
        within = torch.arange(len(ids[0])) - (ends - lengths).repeat_interleave(lengths)
        extra = {
            "position_ids": within[None].to(device),
            "cu_seq_lens_q": starts,
            "lengths": batch.lengths,
        }
    if scoring:
        extra |= {"wanted": wanted, "labels": labels, "weights": weights}
        loss, right = model(input_ids=ids, use_cache=False, **extra)
        return loss, right
    logits = model(input_ids=ids, use_cache=False, **extra).logits.flatten(0, 1)[wanted].float()
    nats = cross_entropy(logits, labels, reduction="none")
    return (nats * weights).sum(), (logits.argmax(-1) == labels).sum()


class Steps:
    """What the Trainer iterates over: the plan's steps after those already taken."""

    def __init__(self, trainer: "StepTrainer", done: int) -> None:
        self.trainer, self.done = trainer, done

    def __len__(self) -> int:
        return self.trainer.plan.total

    def __iter__(self) -> Iterator[list[Pass]]:
        trainer = self.trainer
        for step in range(self.done + 1, trainer.plan.total + 1):
            if trainer.progress.early:  # an attempt that was stopped between its end and its result
                return
            yield list(trainer.cut(trainer.examples, trainer.plan.step(step)))


class StepTrainer(Recorded, Trainer):
    """See the module. `fit` is the way in."""

    def __init__(
        self,
        model: Any,
        run: Run,
        hyperparameters: Hyperparameters,
        progress: Progress,
        *,
        cuda: bool,
        bf16: bool,
        examples: Examples,
        validation: Examples | None,
        fsdp: bool = False,
        sampler: Sampler | None = None,
    ) -> None:
        hp = hyperparameters
        self.examples, self.validation = examples, validation
        plan = Plan(examples.lengths, hp)
        self.watch(run, hp, progress, plan, validates=validation is not None, sampler=sampler)
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.packed = isolates(hp, causal, cuda=cuda, bf16=bf16)
        self.scoring = losses.install(causal)
        self.steps = Steps(self, progress.step)
        found = arguments(run, hp, self.plan.total, cuda=cuda, bf16=bf16)
        found |= {"max_grad_norm": 0, "ignore_data_skip": True}  # both are seen to here
        args = TrainingArguments(**found)
        self.shared = fsdp
        if fsdp:
            sharding.shard(model, args.device)
        super().__init__(model=model, args=args, callbacks=[Milestones(self)])
        if fsdp:
            sharding.told(model)
        self.remove_callback(PrinterCallback)

    # -- batches ---------------------------------------------------------------------------

    def cut(self, examples: Examples, rows: list[int]) -> Iterator[Pass]:
        """This process's forward passes of a step, or of an evaluation: as many as the others'."""
        shares = [
            list(
                passes(
                    share,
                    examples.lengths,
                    most_rows=self.hp.batch_size,
                    most_tokens=self.hp.batch_tokens,
                    packed=self.packed,
                )
            )
            for share in (
                deal(rows, examples.lengths, self.run.ranks) if self.run.ranks > 1 else [rows]
            )
        ]
        mine = shares[self.run.rank]
        idle = max(map(len, shares)) - len(mine)
        for few in [*mine, *([[]] * idle)]:
            yield collate(examples, few, packed=self.packed)

    def get_train_dataloader(self) -> Steps:
        return self.steps

    def get_batch_samples(self, epoch_iterator: Iterator[list[Pass]], *_: Any) -> tuple[Any, None]:
        following = next(epoch_iterator, None)
        return ([] if following is None else [following]), None

    # -- a step ----------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: list[Pass], *_: Any) -> Tensor:
        """Gradients of one step, clipped. Raises StageError when they are no numbers any more."""
        began = time.monotonic()
        model.train()
        device = self.args.device
        step = self.state.global_step + 1
        rows = self.plan.step(step)
        trained = max(1, sum(self.examples.carried(row) for row in rows))
        loss = torch.zeros((), device=device)
        right = torch.zeros((), dtype=torch.int64, device=device)
        for number, batch in enumerate(inputs, 1):
            self.run.check_overdue()
            # gradients are averaged over devices once, after the last pass
            alone = self.run.ranks == 1 or number == len(inputs)
            if self.shared:
                model.set_requires_gradient_sync(number == len(inputs))
            later = not alone and not self.shared
            with self.accelerator.no_sync(model) if later else contextlib.nullcontext():
                nats, guessed = score(model, batch, device, scoring=self.scoring)
                self.accelerator.backward(nats * (self.run.ranks / trained))
            loss += nats.detach()
            right += guessed
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = get_total_norm(gradients, foreach=True)
        held = [weight for weight in model.parameters() if weight.grad is not None]
        clip_grads_with_norm_(held, self.hp.max_grad_norm, norm, foreach=True)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        nats_of_all, right_of_all, norms = self.agree(loss, right, norm.detach())
        self.now = {
            "loss": nats_of_all / trained,
            "accuracy": right_of_all / trained,
            "lr": self.lr_scheduler.get_last_lr()[0],
            "grad_norm": norms / self.run.ranks,
            "tokens": sum(self.examples.lengths[row] for row in rows),
        }
        self.finite(self.now, step)
        self.took = time.monotonic() - began
        return loss

    # -- a model that is shared out --------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.shared:
            self._save(output_dir, sharding.weights(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def gather(self, directory: Path, dtype: torch.dtype) -> None:
        """Save a model that is shared out over the processes, in `dtype`."""
        state = {name: one.to(dtype) for name, one in sharding.weights(self.model).items()}
        self._save(str(directory), state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.shared:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        place = Path(output_dir), self.model, self.optimizer.optimizer, self.lr_scheduler
        sharding.save(*place, self.run.rank)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.shared or not checkpoint:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        place = Path(checkpoint), self.model, self.optimizer.optimizer, self.lr_scheduler
        sharding.load(*place, self.run.rank)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        if self.shared:
            sharding.load_weights(Path(checkpoint), self.model, self.run.rank)
        else:
            super()._load_from_checkpoint(checkpoint, model)

    # -- evaluation ------------------------------------------------------------------------

    def measure(self) -> dict[str, float] | None:
        """The mean loss over all trained tokens of the validation data."""
        examples = self.validation
        assert examples
        device = self.args.device
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in self.cut(examples, list(range(len(examples)))):
            self.run.check_overdue()
            nats, right = score(self.model_wrapped, batch, device, scoring=self.scoring)
            totals += torch.stack([nats, right]).double()
            if self.run.ranks == 1:
                stop = self.run.stop_asked is not None
            else:
                self.agree()
                stop = self.stops
            if stop:
                return None
        nats_of_all, right_of_all = self.agree(*totals)
        trained = examples.carrying
        return {"eval_loss": nats_of_all / trained, "eval_accuracy": right_of_all / trained}


def isolates(hp: Hyperparameters, causal: Any, *, cuda: bool, bf16: bool) -> bool:
    """Whether rows are laid end to end; the model is set up for it then.

    `auto`: wherever it can be done. Padding is pure loss, on a processor too: docs/training.md has
    the figures.
    """
    if hp.packing == "off":
        return False
    able = packing.possible(causal)
    if able and cuda:
        able = bf16 and packing.kernel_works(next(causal.parameters()).device)
    if able:
        packing.use(causal)
        say("Rows lie end to end, and none sees another")
    elif hp.packing == "isolated":
        say("The rows of this model cannot be isolated when packed, so they are padded instead")
    return able
