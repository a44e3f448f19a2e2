"""Learning from preferences: DPO, SimPO, KTO, ORPO and reward models, with TRL's own losses.

Rows, tokens, batches, steps, records and checkpoints are ours (see trainer.py), so that a model
is trained with the very tokens it is served with; TRL's trainers get finished batches, and what is
theirs is the loss. With π the model, π₀ the model as training begins (the
reference), r = log π(y|x) − log π₀(y|x), c and b the chosen and the rejected answer:

    DPO     −log σ(β·(r_c − r_b))                          Rafailov et al. 2023, arXiv:2305.18290
            label smoothing ε makes it robust              Chowdhury et al. 2024, arXiv:2403.00409
    hinge   max(0, 1 − β·(r_c − r_b))                      Zhao et al. 2023, arXiv:2305.10425
    IPO     (r_c/|c| − r_b/|b| − 1/2β)²                    Azar et al. 2023, arXiv:2310.12036
    SimPO   −log σ(β·(log π(c)/|c| − log π(b)/|b|) − γ)    Meng et al. 2024, arXiv:2405.14734
    KTO     1 − σ(±β·(r − KL))                             Ethayarajh et al. 2024, arXiv:2402.01306
    ORPO    NLL(x, c) − β·log σ(log odds(c)/odds(b))       Hong et al. 2024, arXiv:2403.07691
    reward  −log σ(s(x, c) − s(x, b))                      Ouyang et al. 2022, arXiv:2203.02155

With an adapter the reference needs no second model: it is the model without the adapter or, where
training goes on from one, with a frozen copy of it. Without, its log probabilities are computed
once, before the first step.

On several devices each computes whole passes of a step (DDP).
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback

from app.jobs.methods import ADAPTERS
from app.jobs.spec import Hyperparameters, RunSpec
from workers.stages.batches import Plan, passes
from workers.stages.checkpoints import Progress
from workers.stages.pairs import Batch, Rows, collate
from workers.stages.prepare import Examples
from workers.stages.records import Milestones, Recorded, Sampler, arguments
from workers.stages.run import Run, say

GAMMA = 0.5  # SimPO's margin: its authors' choice for beta 2
METRICS = {  # ours: TRL's
    "rewards_chosen": "rewards/chosen",
    "rewards_rejected": "rewards/rejected",
    "margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
}
REWARD_METRICS = {"margin": "margin", "reward_accuracy": "accuracy"}


class Steps:
    """What the Trainer iterates over: the rows of the plan's steps after those already taken."""

    def __init__(self, plan: Plan, done: int) -> None:
        self.plan, self.done = plan, done

    def __len__(self) -> int:
        return self.plan.total

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.done + 1, self.plan.total + 1):
            yield self.plan.step(step)


class Preferences(Recorded):
    """Mixed into a trainer of TRL's: see `trainer_of`. `fit` is the way in."""

    # of TRL's trainer
    state: Any
    lr_scheduler: Any
    remove_callback: Any
    compute_loss: Any
    compute_ref_log_probs: Any
    _metrics: Any
    _stored_metrics: Any

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
        sampler: Sampler | None,
        spec: RunSpec,
        fresh: bool,
    ) -> None:
        hp, self.style = hyperparameters, style_of(spec)
        self.rows = Rows(examples, spec.stage, hp.seed)
        self.held_out = Rows(validation, spec.stage, hp.seed) if validation else None
        plan = Plan(self.rows.lengths, hp)
        self.watch(run, hp, progress, plan, validates=self.held_out is not None, sampler=sampler)
        found = arguments(run, hp, self.plan.total, cuda=cuda, bf16=bf16)
        trained = {weight: weight.data for weight in model.parameters() if weight.requires_grad}
        tokenizer = load_tokenizer(spec)
        super().__init__(  # type: ignore[call-arg]
            model=model,
            args=config_of(spec, found),
            train_dataset=nothing(self.style),
            processing_class=tokenizer,
            callbacks=[Milestones(self)],
        )
        self.remove_callback(PrinterCallback)
        self.fill = int(tokenizer.pad_token_id)
        if run.ranks > 1:  # losses and figures are of a pass alone: `agree` adds them up
            for name in ("gather", "gather_for_metrics"):
                setattr(self.accelerator, name, lambda found: found)
        for weight, data in trained.items():  # TRL makes adapters of a quantised base bfloat16
            weight.data = data
        if "ref" in getattr(model, "peft_config", {}) and fresh:
            model.delete_adapter("ref")  # the model without its adapter is the same, and costs less
        if self.style in {"dpo", "kto"} and spec.method not in ADAPTERS:
            for rows in filter(None, (self.rows, self.held_out)):
                self.ask_reference(rows)

    def ask_reference(self, rows: Rows) -> None:
        """Log probabilities of all answers before anything is learnt."""
        say(f"Reference log probabilities of {len(rows):,} rows")
        self.run.enter("reference")
        self.model.eval()
        found: dict[int, tuple[float, float]] = {}
        for few, _ in self.cut(rows, list(range(len(rows)))):
            first, second = self.compute_ref_log_probs(self.model, self.batch(rows, few))
            found |= dict(zip(few, zip(first.tolist(), second.tolist(), strict=True), strict=True))
        if self.run.ranks > 1:
            shares: list[Any] = [None] * self.run.ranks
            torch.distributed.all_gather_object(shares, found)
            found = {row: both for share in shares for row, both in share.items()}
        rows.reference = [found[row] for row in range(len(rows))]

    # -- what TRL would do, and is done already ----------------------------------------------

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass

    # -- batches ---------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return Steps(self.plan, self.progress.step)

    def get_batch_samples(self, epoch_iterator: Iterator[list[int]], *_: Any) -> tuple[Any, None]:
        following = next(epoch_iterator, None)
        return ([] if following is None else [following]), None

    def cut(self, rows: Rows, chosen: list[int]) -> Iterator[tuple[list[int], float]]:
        """This process's forward passes, as many as the others', each with its share of `chosen`.

        Passes are dealt out whole: what a loss makes of all of a pass (KTO's estimate of how far the
        model has moved, ORPO's mean over tokens) is then the same on any number of devices. One that
        has nothing left to do repeats a pass, which counts for nothing.
        """
        ranks, rank = self.run.ranks, self.run.rank
        found = list(
            passes(
                chosen,
                rows.lengths,
                most_rows=min(self.hp.batch_size, math.ceil(len(chosen) / ranks)),
                most_tokens=self.hp.batch_tokens,
            )
        )
        for place in range(rank, math.ceil(len(found) / ranks) * ranks, ranks):
            if place < len(found):
                yield found[place], len(found[place]) / len(chosen)
            else:
                yield found[-1], 0.0

    def batch(self, rows: Rows, few: list[int]) -> Batch:
        batch, device = collate(rows, few, self.style, self.fill), self.args.device
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def scored(self, model: Any, rows: Rows, few: list[int]) -> tuple[Any, dict[str, float]]:
        """TRL's loss of a batch, the mean over its rows, and what it says beside."""
        loss = self.compute_loss(model, self.batch(rows, few))
        said: Any = self._stored_metrics if self.style == "odds" else self._metrics
        said = said["eval" if self.style != "odds" and not model.training else "train"]
        names = names_of(self.style).items()
        found = {ours: said[theirs][-1] for ours, theirs in names if said.get(theirs)}
        said.clear()
        return loss, found

    # -- a step ----------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: list[int], *_: Any) -> Any:
        """Gradients of one step, clipped: the mean over its rows, in however many passes."""
        began, step = time.monotonic(), self.state.global_step + 1
        model.train()
        loss, mean = torch.zeros((), device=self.args.device), Mean(self.style, self.args.device)
        work = list(self.cut(self.rows, inputs))
        for number, (few, share) in enumerate(work, 1):
            self.run.check_overdue()
            # gradients are averaged over devices once, after the last pass
            last = self.run.ranks == 1 or number == len(work)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                part, said = self.scored(model, self.rows, few)
                self.accelerator.backward(part * (share * self.run.ranks))
            loss += part.detach() * share
            mean.add(said, share)
        held = [weight for weight in model.parameters() if weight.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(held, self.hp.max_grad_norm)
        value, norms, *means = self.agree(loss, norm.detach(), *mean.sums)
        self.now = {
            "loss": value,
            **mean.result(means),
            "lr": self.lr_scheduler.get_last_lr()[0],
            "grad_norm": norms / self.run.ranks,
            "tokens": self.rows.tokens(inputs),
        }
        self.finite(self.now, step)
        self.took = time.monotonic() - began
        return loss

    def measure(self) -> dict[str, float] | None:
        """The mean loss over all rows of the validation data."""
        rows = self.held_out
        assert rows
        total, mean = torch.zeros((), device=self.args.device), Mean(self.style, self.args.device)
        for few, share in self.cut(rows, list(range(len(rows)))):
            self.run.check_overdue()
            self.agree()
            if self.stops:
                return None
            loss, said = self.scored(self.model_wrapped, rows, few)
            total += loss * share
            mean.add(said, share)
        value, *means = self.agree(total, *mean.sums)
        found = {f"eval_{name}": figure for name, figure in mean.result(means).items()}
        return {"eval_loss": value} | found


class Mean:
    """Of figures that not every batch has, weighted by its share of the rows."""

    def __init__(self, style: str, device: torch.device) -> None:
        self.names = list(names_of(style))
        # of each name: the weighted sum, then of each: the weights
        self.sums = torch.zeros(2 * len(self.names), dtype=torch.float64, device=device)

    def add(self, said: dict[str, float], share: float) -> None:
        for name, value in said.items():
            place = self.names.index(name)
            self.sums[place] += float(value) * share
            self.sums[place + len(self.names)] += share

    def result(self, sums: list[float]) -> dict[str, float]:
        """`sums` are those of all processes."""
        half = len(self.names)
        both = zip(self.names, sums[:half], sums[half:], strict=True)
        return {name: total / share for name, total, share in both if share}


def names_of(style: str) -> dict[str, str]:
    return REWARD_METRICS if style == "reward" else METRICS


# -- TRL -----------------------------------------------------------------------------------


def style_of(spec: RunSpec) -> str:
    """Which batches the loss takes; `odds` is ORPO's, and SimPO's, which have no reference."""
    simpo = spec.stage == "dpo" and spec.hyperparameters.dpo_loss == "simpo"
    return "odds" if spec.stage == "orpo" or simpo else spec.stage


def trainer_of(spec: RunSpec) -> Any:
    """The class of the trainer: TRL's, with our batches, steps and records."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    if spec.stage == "reward":
        from trl import RewardTrainer as Kind
    elif spec.stage == "kto":
        from trl import KTOTrainer as Kind
    elif spec.stage == "orpo":
        from trl.experimental.orpo import ORPOTrainer as Kind
    elif style_of(spec) == "odds":
        from trl.experimental.cpo import CPOTrainer as Kind
    else:
        from trl import DPOTrainer as Kind
    return type(f"Our{Kind.__name__}", (Preferences, Kind), {})


def config_of(spec: RunSpec, found: dict[str, Any]) -> Any:
    """TRL's own arguments. `found` are those of any Trainer."""
    hp = spec.hyperparameters
    found |= {
        "max_grad_norm": 0,  # clipped in training_step
        "ignore_data_skip": True,
        "neftune_noise_alpha": None,  # its noise would reach the reference too
        "gradient_checkpointing": hp.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_length": hp.max_length if style_of(spec) == "odds" else None,  # rows are cut already
    }
    known = (
        spec.method not in ADAPTERS
    )  # the reference's log probabilities, as `ask_reference` says
    if spec.stage == "reward":
        from trl import RewardConfig

        return RewardConfig(**found)
    if spec.stage == "kto":
        from trl import KTOConfig

        return KTOConfig(
            beta=hp.beta,
            desirable_weight=hp.desirable_weight,
            undesirable_weight=hp.undesirable_weight,
            precompute_ref_log_probs=known,
            train_sampling_strategy="sequential",
            **found,
        )
    if spec.stage == "orpo":
        from trl.experimental.orpo import ORPOConfig

        return ORPOConfig(beta=hp.beta, **found)
    if style_of(spec) == "odds":
        from trl.experimental.cpo import CPOConfig

        return CPOConfig(
            beta=hp.beta,
            loss_type="simpo",
            cpo_alpha=0.0,
            simpo_gamma=GAMMA,
            label_smoothing=hp.label_smoothing,
            **found,
        )
    from trl import DPOConfig

    robust = hp.dpo_loss == "sigmoid" and hp.label_smoothing > 0
    return DPOConfig(
        beta=hp.beta,
        loss_type=["robust" if robust else hp.dpo_loss],
        label_smoothing=hp.label_smoothing,
        precompute_ref_log_probs=known,
        **found,
    )


def load_tokenizer(spec: RunSpec) -> Any:
    """TRL asks for one, and takes the padding from it."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(spec.base, local_files_only=True, trust_remote_code=False)
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


class Nothing(list[dict[str, int]]):
    """In place of a dataset that is only ever mapped."""

    def map(self, *_: Any, **__: Any) -> "Nothing":
        return self


def nothing(style: str) -> Any:
    """A dataset for trainers that want one: no batch is made of it."""
    from datasets import Dataset

    row = [{"number": 0}]
    return Nothing(row) if style == "odds" else Dataset.from_list(row)
