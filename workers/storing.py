"""Puts checkpoints of this node's jobs into the store, so that another node can go on from them.

A thread of the node's loop: a large model's takes a while.
"""

import json
import tempfile
import time
from pathlib import Path

import structlog

from app import storage
from app.config import settings
from app.jobs import storing
from app.jobs.storing import Due
from app.nodework.asking import do
from workers.stages.checkpoints import COMPLETE, carry
from workers.starting import directory_of

log = structlog.get_logger()

PERIOD = 5.0  # seconds between two looks
next_look = 0.0


def tick(node_id: str) -> None:
    """Raises what the store or the database raises: it is tried again."""
    global next_look
    if time.monotonic() < next_look:
        return
    next_look = time.monotonic() + PERIOD
    for one in do(storing.due, node_id):
        put(one)


def leave(node_id: str, job_id: str) -> None:
    """Before a job goes on elsewhere. A store that is away costs it what it learnt since the last."""
    try:
        for one in do(storing.due, node_id, job_id):
            put(one)
    except Exception:
        log.exception("a checkpoint stays behind", job=job_id)


def put(one: Due) -> bool:
    """False if it was gone already. Links: a trainer that prunes meanwhile removes nothing of ours."""
    standing = directory_of(one.job_id, one.fence) / "checkpoints"
    with tempfile.TemporaryDirectory(prefix=".storing-", dir=settings.runs) as at:
        made = Path(at) / "checkpoints"
        made.mkdir()
        name = f"checkpoint-{one.step}"
        try:
            best = json.loads((standing / name / COMPLETE).read_text()).get("best_step")
            for wanted in {name, f"checkpoint-{best or one.step}"}:
                carry(standing / wanted, made)
        except (OSError, ValueError):  # a shutil.Error is one
            return False
        if not (made / name / COMPLETE).exists():
            return False
        storage.put(made, one.artefact)
    over = do(storing.note, one.job_id, one.fence, one.step)
    if over:
        storage.delete(over)
    log.info("checkpoint stored", job=one.job_id, step=one.step, wanted=over != one.artefact)
    return True
