"""One training run of a peer, in the peer's own environment: `python peer.py SPEC.json`.

SPEC is {trainer, started, out, model, rows, batch, epochs, rate, length, save, extra}. What comes
out is `out`: {first (seconds from `started` to the first optimizer step), times (of each step)}.
`trainer` is llamafactory, trl, or bare (a loop with nothing around it, over Danlu's own batches).
"""

import json
import sys
import time
from pathlib import Path

spec = json.loads(Path(sys.argv[1]).read_text())
times: list[float] = []


def clock() -> type:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_optimizer_step(self, *_args: object, **_named: object) -> None:
            times.append(time.time())

    return Clock


def llamafactory() -> None:
    from llamafactory.train.tuner import run_exp

    given = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": spec["model"],
        "dataset_dir": str(Path(spec["rows"]).parent),
        "dataset": "rows",
        "template": "qwen",
        "finetuning_type": "full",
        "output_dir": spec["save"],
        "overwrite_output_dir": True,
        "per_device_train_batch_size": spec["batch"],
        "num_train_epochs": spec["epochs"],
        "learning_rate": spec["rate"],
        "cutoff_len": spec["length"],
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 10,
        "seed": 42,
    }
    run_exp(given | spec["extra"], callbacks=[clock()()])


def trl() -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [json.loads(line) for line in Path(spec["rows"]).read_text().splitlines()]
    given = {
        "output_dir": spec["save"],
        "per_device_train_batch_size": spec["batch"],
        "num_train_epochs": spec["epochs"],
        "learning_rate": spec["rate"],
        "max_length": spec["length"],
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "seed": 42,
    }
    trainer = SFTTrainer(
        model=spec["model"],
        args=SFTConfig(**given | spec["extra"]),
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        callbacks=[clock()()],
    )
    trainer.train()
    trainer.save_model(spec["save"])


def bare() -> None:
    """Forward, backward, clip, step: over the very batches that Danlu takes, with its own loss."""
    import torch
    from transformers import AutoModelForCausalLM

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from app.jobs.spec import Hyperparameters
    from workers.stages import losses, packing, tokens
    from workers.stages.batches import Plan, passes
    from workers.stages.trainer import collate, score

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(42)
    found = tokens.load(Path(spec["extra"]["tokens"]))
    assert found
    examples = found.train
    hp = Hyperparameters(**spec["extra"]["hyperparameters"])
    plan = Plan(examples.lengths, hp)
    device = torch.device("cpu")
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
    packing.use(model)
    losses.install(model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["rate"], weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 1 - at / plan.total)
    for step in range(1, plan.total + 1):
        rows = plan.step(step)
        trained = sum(examples.carried(row) for row in rows)
        size = {"most_rows": hp.batch_size, "most_tokens": hp.batch_tokens}
        for few in passes(rows, examples.lengths, **size, packed=True):
            nats, _ = score(model, collate(examples, few, packed=True), device, scoring=True)
            (nats / trained).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.time())
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(spec["save"])


{"llamafactory": llamafactory, "trl": trl, "bare": bare}[spec["trainer"]]()
Path(spec["out"]).write_text(json.dumps({"first": times[0] - spec["started"], "times": times}))
