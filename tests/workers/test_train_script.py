"""The script of a job, run with TRL alone: it learns what the job learned."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from app.config import settings
from app.jobs import script
from app.jobs.methods import complete
from tests import factories
from tests.workers.stage_runs import reviews

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]
PAIRS = [
    {
        "messages": row["messages"][:1],
        "chosen": row["messages"][1],
        "rejected": {
            "role": "assistant",
            "content": "负面" if row["messages"][1]["content"] == "正面" else "正面",
        },
    }
    for row in reviews(48)
]
LABELLED = [row | {"label": number % 2 == 0} for number, row in enumerate(reviews(48))]
TEXTS = [{"text": row["messages"][0]["content"]} for row in reviews(48)]
SETTINGS = {"max_steps": 20, "batch_size": 8, "learning_rate": 5e-3, "lora_rank": 8}


def run_script(db, directory: Path, base: Path, stage: str, rows: list, **spec) -> list[dict]:
    """Losses, as the script writes them."""
    workspace = factories.make_workspace(db)
    method = spec.pop("method", "lora")
    job = factories.make_job(
        db,
        workspace,
        factories.make_user(db),
        stage=stage,
        method=method,
        spec=complete("lora", spec).model_dump() | {"beta": 0.1},
    )
    (directory / "train.py").write_text(script.train_py(db, job))
    text = "".join(json.dumps({"id": str(i)} | row) + "\n" for i, row in enumerate(rows))
    (directory / "rows.jsonl").write_text(text)
    done = subprocess.run(
        [settings.train_python, directory / "train.py", base],
        cwd=directory,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((directory / "losses.json").read_text())
    return [line for line in log if "loss" in line]


def test_it_learns_what_the_job_learned(db, stages, base, tmp_path):
    rows = reviews(96)
    run = stages.run(base=base, train=[stages.data(rows)], hyperparameters=SETTINGS)
    assert run.code == 0, run.log
    losses = [line["loss"] for line in run_script(db, tmp_path, base, "sft", rows, **SETTINGS)]
    assert len(losses) == len(run.losses) == 20
    ours, theirs = run.losses, losses
    assert abs(theirs[0] - ours[0]) < 0.25 * ours[0]  # other rows, the same task and masks
    assert sum(theirs[-5:]) < 0.6 * sum(theirs[:5])
    assert abs(sum(theirs[-5:]) - sum(ours[-5:])) < 0.25 * sum(ours[:5])
    assert (tmp_path / "result/adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("stage", "rows"),
    [("dpo", PAIRS), ("kto", LABELLED), ("orpo", PAIRS), ("reward", PAIRS), ("pretrain", TEXTS)],
)
def test_the_other_stages_run(db, base, tmp_path, stage, rows):
    losses = run_script(db, tmp_path, base, stage, rows, max_steps=2, batch_size=4)
    assert len(losses) == 2
    assert (tmp_path / "result/adapter_model.safetensors").exists()
