"""The checkpoints on this node: says which there are, and publishes those that are asked for.

A thread of the node's loop, so it may take its time with a large model.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import structlog

from app import storage
from app.config import settings
from app.errors import DomainError
from app.jobs import checkpoints
from app.jobs.checkpoints import Found
from app.jobs.tables import JobCheckpoint
from app.models import chat_template, weights
from app.nodework.asking import do
from app.queue import transaction
from workers.stages import models
from workers.stages.checkpoints import COMPLETE, WHOLE
from workers.stages.run import StageError
from workers.starting import directory_of

log = structlog.get_logger()

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json")
said: dict[str, list[Found]] | None = None  # by job: what we told the database, if we did


def tick(node_id: str) -> None:
    global said
    found = standing()
    if found != said:
        before = dict.fromkeys(do(checkpoints.on_node, node_id)) if said is None else said
        for job_id in {*found, *before}:
            if said is None or found.get(job_id) != said.get(job_id):
                do(checkpoints.keep, node_id, job_id, found.get(job_id, []))
        said = found
    with transaction() as db:
        wanted = checkpoints.wanted(db, node_id)
    for row in wanted:
        publish(row)


def of_job(job_id: str) -> list[Found]:
    """Those of one job, now."""
    return standing(job_id).get(job_id, [])


# -- what stands here --------------------------------------------------------------------


def standing(job_id: str = "job_*") -> dict[str, list[Found]]:
    """The complete checkpoints of each job; of a step that two attempts have, the later one's."""
    steps: dict[str, dict[int, Found]] = {}
    for marker in settings.runs.glob(f"{job_id}-*/checkpoints/checkpoint-*/{COMPLETE}"):
        job_id, _, fence = marker.parents[2].name.rpartition("-")
        try:
            one = look(marker, int(fence))
        except (OSError, ValueError):
            continue  # going just now
        of_job = steps.setdefault(job_id, {})
        if one.step not in of_job or of_job[one.step].fence < one.fence:
            of_job[one.step] = one
    return {job_id: [of_job[step] for step in sorted(of_job)] for job_id, of_job in steps.items()}


def look(marker: Path, fence: int) -> Found:
    progress = json.loads(marker.read_text())
    return Found(
        step=int(marker.parent.name.rpartition("-")[2]),
        fence=fence,
        loss=number(progress.get("loss")),
        eval_loss=number(progress.get("eval_loss")),
        size=sum(path.stat().st_size for path in weights_of(marker.parent).glob("*.safetensors")),
    )


def weights_of(checkpoint: Path) -> Path:
    whole = checkpoint / WHOLE
    return whole if whole.is_dir() else checkpoint


def number(value: Any) -> float | None:
    finite = isinstance(value, int | float) and abs(value) < 1e300
    return float(value) if finite else None


# -- publishing --------------------------------------------------------------------------


def publish(row: JobCheckpoint) -> None:
    """Raises what the store or the database raises: the next tick tries again."""
    run = directory_of(row.job_id, row.fence)
    base, name = do(checkpoints.base_of, row.job_id)
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=settings.runs) as at:
        made = Path(at) / "model"
        try:
            if not gather(run, row.step, storage.fetch(base), name, made):
                do(checkpoints.refuse, row.job_id, row.step, checkpoints.GONE)
                return
            facts = weights.inspect(made)
        except (DomainError, StageError) as error:
            refusal = error if isinstance(error, DomainError) else DomainError(
                error.message, code=error.code, **error.params
            )  # fmt: skip
            do(checkpoints.refuse, row.job_id, row.step, refusal.kept())
            return
        artefact = storage.put(made, checkpoints.artefact(row))
    kind = "adapter" if facts["adapter"] else "model"
    result = {"kind": kind, "artefact": artefact, "facts": facts}
    done = do(checkpoints.published, row.job_id, row.step, result)
    log.info("checkpoint published", job=row.job_id, step=row.step, done=done)


def gather(run: Path, step: int, base: Path, base_name: str, made: Path) -> bool:
    """The files of a model, as a finished run leaves them. False if the checkpoint is gone.

    Links: a trainer that removes the checkpoint meanwhile removes nothing of ours.
    """
    checkpoint = run / "checkpoints" / f"checkpoint-{step}"
    made.mkdir()
    try:
        for pattern in WEIGHTS:
            for path in weights_of(checkpoint).glob(pattern):
                os.link(path, made / path.name)
    except FileNotFoundError:
        return False
    if not (checkpoint / COMPLETE).exists():
        return False
    words = run / "words"
    if words.is_dir():
        shutil.copytree(words, made, dirs_exist_ok=True)
    else:
        models.write_words(base, made, chat_template.load(base), models.stop_tokens(base))
    config = made / "adapter_config.json"
    if config.exists():  # not a path of this node; and not through the link
        adapter = models.read(config) | {"base_model_name_or_path": base_name}
        config.unlink()
        config.write_text(json.dumps(adapter, indent=2) + "\n")
    return True
