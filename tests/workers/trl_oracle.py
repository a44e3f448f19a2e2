"""TRL's own trainers, from messages to losses: `<train_python> tests/workers/trl_oracle.py IN OUT`.

IN is a list of {stage, method, base, rows, settings}; OUT gets a list of {loss, grad_norm} per step
for each. TRL tokenises, masks and batches by itself here; all rows are one batch. Also the rates of
LoRA+: {rates: {name of a weight: rate}}.
"""

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


def train(case: dict[str, Any]) -> list[dict[str, float]]:
    stage, settings, base = case["stage"], case["settings"], case["base"]
    reward, simpo = stage == "reward", settings.get("dpo_loss") == "simpo"
    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(42)
    shape = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    model = shape.from_pretrained(
        base, dtype=torch.float32, **({"num_labels": 1} if reward else {})
    )
    more: dict[str, Any] = {}
    if case["method"] == "lora":
        task = "SEQ_CLS" if reward else "CAUSAL_LM"
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task)
        model = get_peft_model(model, config)
    elif stage in {"dpo", "kto"} and not simpo:
        more["ref_model"] = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    kind: Any = {"dpo": DPOTrainer, "kto": KTOTrainer, "orpo": ORPOTrainer, "reward": RewardTrainer}
    kind = CPOTrainer if simpo else kind[stage]
    config = {
        DPOTrainer: DPOConfig,
        KTOTrainer: KTOConfig,
        ORPOTrainer: ORPOConfig,
        RewardTrainer: RewardConfig,
        CPOTrainer: CPOConfig,
    }[kind]
    options = {name: settings[name] for name in ("beta",) if name in settings}
    if simpo:
        options |= {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.5}
    elif "dpo_loss" in settings:
        options["loss_type"] = [settings["dpo_loss"]]
    if stage == "kto":
        options["train_sampling_strategy"] = "sequential"
    trainer = kind(
        model=model,
        args=config(
            output_dir=tempfile.mkdtemp(),
            max_steps=settings["max_steps"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="constant",
            per_device_train_batch_size=len(case["rows"]),
            max_length=512,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(rows_of(case)),
        processing_class=tokenizer,
        **more,
    )
    trainer.train()
    history = [line for line in trainer.state.log_history if "grad_norm" in line]
    return [{"loss": line["loss"], "grad_norm": float(line["grad_norm"])} for line in history]


def rows_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    if case["stage"] != "kto":
        return [
            {"prompt": row["messages"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]}
            for row in case["rows"]
        ]
    rows = [
        {
            "prompt": row["messages"][:-1],
            "completion": row["messages"][-1:],
            "label": row["label"],
        }
        for row in case["rows"]
    ]
    # TRL gives each question the answer of the row before it; so that these are the pairs of ours:
    order = list(range(len(rows)))
    random.Random("42 kto").shuffle(order)
    return [rows[number] for number in reversed(order)]


def rates(base: str, ratio: float) -> dict[str, float]:
    """What the StepTrainer's optimizer gives each trained weight."""
    from app.jobs.spec import Hyperparameters
    from workers.stages import adapters
    from workers.stages.trainer import StepTrainer

    hp = Hyperparameters(loraplus_ratio=ratio, learning_rate=1e-3, use_dora=True)
    model = adapters.add_new(AutoModelForCausalLM.from_pretrained(base), hp)
    trainer = StepTrainer.__new__(StepTrainer)
    from transformers import TrainingArguments

    trainer.hp, trainer.model, trainer.optimizer = hp, model, None
    trainer.args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), learning_rate=1e-3, use_cpu=True
    )
    trainer.optimizer_cls_and_kwargs = None
    groups = trainer.create_optimizer().param_groups
    found = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    return {
        name: found[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad
    }


def main() -> None:
    torch.set_num_threads(2)
    asked = json.loads(Path(sys.argv[1]).read_text())
    found = [
        {"rates": rates(case["base"], case["ratio"])} if "ratio" in case else train(case)
        for case in asked
    ]
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
