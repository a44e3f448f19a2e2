"""Learning from preferences: DPO, SimPO, KTO, ORPO and reward models, with TRL's own losses.

Rows, tokens, batches, steps, records and checkpoints are ours (see trainer.py), so that a model
is trained with the very tokens it is served with; TRL's trainers are given finished batches and
asked for the loss of each, nothing else. With π the model, π₀ the model as training begins (the
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
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from app.jobs.methods import ADAPTERS
from app.jobs.spec import RunSpec
from workers.stages.batches import passes
from workers.stages.pairs import Batch, Rows, collate
from workers.stages.prepare import Examples
from workers.stages.run import Run, say
from workers.stages.trainer import StepTrainer, diverged

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

    def __init__(self, trainer: "PreferenceTrainer") -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.plan.total

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.trainer.progress.step + 1, len(self) + 1):
            yield self.trainer.plan.step(step)


# -- the trainer ---------------------------------------------------------------------------


def trainer_of(spec: RunSpec, tokenizer: Any, *, fresh: bool) -> Any:
    """`PreferenceTrainer` of this stage, to be called as `StepTrainer` is."""
    return partial(PreferenceTrainer, spec=spec, tokenizer=tokenizer, fresh=fresh)


class PreferenceTrainer(StepTrainer):
    """The same loop with another loss. `fit` is the way in."""

    def __init__(
        self,
        model: Any,
        run: Run,
        *arguments: Any,
        examples: Examples,
        validation: Examples | None,
        spec: RunSpec,
        tokenizer: Any,
        fresh: bool,
        **options: Any,
    ) -> None:
        stage, seed = spec.stage, spec.hyperparameters.seed
        rows: Any = Rows(examples, stage, seed)
        held_out: Any = Rows(validation, stage, seed) if validation is not None else None
        super().__init__(model, run, *arguments, examples=rows, validation=held_out, **options)
        self.rows = rows
        self.neftune_noise_alpha = None  # its noise would reach the reference too
        self.style = "odds" if uses_odds(spec) else "kto" if stage == "kto" else stage
        self.names = REWARD_METRICS if stage == "reward" else METRICS
        weights = {weight: weight.data for weight in model.parameters() if weight.requires_grad}
        self.trl = trl_trainer(spec, model, tokenizer, self.args)
        for weight, data in weights.items():  # TRL makes adapters of a quantised base bfloat16
            weight.data = data
        self.fill = int(tokenizer.pad_token_id)
        if "ref" in getattr(model, "peft_config", {}) and fresh:
            model.delete_adapter("ref")  # the model without its adapter is the same, and costs less
        if spec.method not in ADAPTERS and stage in {"dpo", "kto"} and self.style != "odds":
            for known in filter(None, (rows, held_out)):
                self.ask_reference(known)

    def ask_reference(self, rows: Rows) -> None:
        """Log probabilities of all answers before anything is learnt."""
        say(f"Reference log probabilities of {len(rows):,} rows")
        self.run.enter("reference")
        self.model.eval()
        found: dict[int, tuple[float, float]] = {}
        for few in self.cut(rows, list(range(len(rows)))):
            batch = self.on_device(collate(rows, few, self.style, self.fill))
            first, second = self.trl.compute_ref_log_probs(self.model, batch)
            found |= dict(zip(few, zip(first.tolist(), second.tolist(), strict=True), strict=True))
        rows.reference = [found[row] for row in range(len(rows))]

    def cut(self, rows: Rows, chosen: list[int]) -> Iterator[list[int]]:
        return passes(
            chosen, rows.lengths, most_rows=self.hp.batch_size, most_tokens=self.hp.batch_tokens
        )

    def on_device(self, batch: Batch) -> Batch:
        device = self.args.device
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def judge(
        self, model: Any, rows: Rows, few: list[int]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """TRL's loss of a batch, the mean over its rows, and what it says beside."""
        batch = self.on_device(collate(rows, few, self.style, self.fill))
        loss = self.trl.compute_loss(model, batch)
        if self.style == "odds":
            said = self.trl._stored_metrics["train"]  # noqa: SLF001 - there is no other way
        else:
            said = self.trl._metrics["train" if model.training else "eval"]  # noqa: SLF001
        found = {ours: said[theirs][-1] for ours, theirs in self.names.items() if said.get(theirs)}
        said.clear()
        return loss, found

    # -- a step ----------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return Steps(self)

    def training_step(self, model: Any, inputs: Any, *_: Any) -> torch.Tensor:
        """Gradients of one step, clipped: the mean over its rows, in however many passes."""
        began = time.monotonic()
        model.train()
        step = self.state.global_step + 1
        loss = torch.zeros((), device=self.args.device)
        mean = Mean()
        for few in self.cut(self.rows, inputs):
            self.run.check_overdue()
            share = len(few) / len(inputs)
            part, said = self.judge(model, self.rows, few)
            self.accelerator.backward(part * share)
            loss += part.detach() * share
            mean.add(said, len(few))
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(weights, self.hp.max_grad_norm))
        now = {
            "loss": float(loss),
            **mean.result(),
            "lr": self.lr_scheduler.get_last_lr()[0],
            "grad_norm": norm,
            "tokens": self.tokens(step),
        }
        if not math.isfinite(now["loss"]) or not math.isfinite(norm):
            raise diverged(step)
        self.now, self.took = now, time.monotonic() - began
        return loss

    def tokens(self, step: int) -> int:
        return int(self.rows.tokens(self.plan.step(step)))

    # -- evaluation ------------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all rows of the validation data."""
        self.control.should_evaluate = False
        rows: Any = self.validation
        if rows is None:
            return {}
        step, model = self.progress.step, self.model_wrapped
        self.progress.eval_due = True
        model.eval()
        total, mean = 0.0, Mean()
        with torch.no_grad():
            for few in self.cut(rows, list(range(len(rows)))):
                if self.run.stop_asked:  # the next attempt begins with this evaluation
                    self.control.should_save = self.control.should_training_stop = True
                    return {}
                loss, said = self.judge(model, rows, few)
                total += float(loss) * len(few)
                mean.add(said, len(few))
        loss = total / len(rows)
        self.progress.eval_due, self.progress.eval_loss = False, loss
        epoch = round(step / self.plan.per_epoch, 4)
        found = {f"eval_{name}": value for name, value in mean.result().items()}
        self.run.metric({"step": step, "epoch": epoch, "eval_loss": loss} | found)
        say(f"step {step}/{self.plan.total}  epoch {epoch:.2f}  eval loss {loss:.4f}")
        return {}


class Mean:
    """Of figures that not every batch has, weighted by its rows."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, said: dict[str, float], rows: int) -> None:
        for name, value in said.items():
            self.sums[name][0] += float(value) * rows
            self.sums[name][1] += rows

    def result(self) -> dict[str, float]:
        return {name: total / rows for name, (total, rows) in self.sums.items()}


# -- TRL -----------------------------------------------------------------------------------


def uses_odds(spec: RunSpec) -> bool:
    """ORPO and SimPO: no reference, and batches of another form."""
    simpo = spec.stage == "dpo" and spec.hyperparameters.dpo_loss == "simpo"
    return spec.stage == "orpo" or simpo


class Finished:
    """Rows are tokenised, and reference log probabilities known: TRL has nothing to prepare."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset


class Nothing(list[dict[str, int]]):
    """In place of a dataset that is only ever mapped."""

    def map(self, *_: Any, **__: Any) -> "Nothing":
        return self


def trl_trainer(spec: RunSpec, model: Any, tokenizer: Any, args: Any) -> Any:
    """TRL's trainer of the stage, for its loss. It never trains by itself."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset

    hp = spec.hyperparameters
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    common = {
        "output_dir": args.output_dir,
        "seed": hp.seed,
        "use_cpu": args.use_cpu,
        "bf16": args.bf16,
        "gradient_checkpointing": hp.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_length": None,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    given = {"model": model, "processing_class": tokenizer}
    row = Dataset.from_list([{"number": 0}])
    known = spec.method not in ADAPTERS  # the reference's log probabilities
    if spec.stage == "reward":
        from trl import RewardConfig, RewardTrainer

        shape = type("Reward", (Finished, RewardTrainer), {})
        return shape(args=RewardConfig(**common), train_dataset=row, **given)
    if spec.stage == "kto":
        from trl import KTOConfig, KTOTrainer

        config = KTOConfig(
            beta=hp.beta,
            desirable_weight=hp.desirable_weight,
            undesirable_weight=hp.undesirable_weight,
            precompute_ref_log_probs=known,
            train_sampling_strategy="sequential",
            **common,
        )
        return type("Kto", (Finished, KTOTrainer), {})(args=config, train_dataset=row, **given)
    if spec.stage == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        config = ORPOConfig(beta=hp.beta, **common | {"max_length": hp.max_length})
        return ORPOTrainer(args=config, train_dataset=Nothing([{"number": 0}]), **given)
    if hp.dpo_loss == "simpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        config = CPOConfig(
            beta=hp.beta,
            loss_type="simpo",
            cpo_alpha=0.0,
            simpo_gamma=GAMMA,
            label_smoothing=hp.label_smoothing,
            **common | {"max_length": hp.max_length},
        )
        return CPOTrainer(args=config, train_dataset=Nothing([{"number": 0}]), **given)
    from trl import DPOConfig, DPOTrainer

    robust = hp.dpo_loss == "sigmoid" and hp.label_smoothing > 0
    config = DPOConfig(
        beta=hp.beta,
        loss_type=["robust" if robust else hp.dpo_loss],
        label_smoothing=hp.label_smoothing,
        precompute_ref_log_probs=known,
        **common,
    )
    return type("Dpo", (Finished, DPOTrainer), {})(args=config, train_dataset=row, **given)
