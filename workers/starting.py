"""Starting a run: the body of the Celery task `workers.start_run`.

It may be called twice, or killed anywhere: at most one process is ever started for an attempt,
and one that was started without anybody noting it down is adopted by the node's loop.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from app import storage
from app.cluster.tables import Device, Lease
from app.config import ROOT, settings
from app.deployments import results
from app.errors import N_
from app.jobs import methods
from app.jobs import runs as jobs
from app.jobs.spec import Hyperparameters, RunSpec
from app.nodework.asking import do
from app.queue import transaction
from workers import gpus, process
from workers.stages.checkpoints import step_of

log = structlog.get_logger()

STORE_PATIENCE = 15 * 60  # seconds in which the store may be away
STALE_GRACE = 2.0  # seconds: nothing it writes counts any more
NICE = 5  # trainers yield to the console on a machine they share


def directory_of(job_id: str, fence: int) -> Path:
    return settings.runs / process.marker(job_id, fence)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Whether nobody else is starting, or giving up, this attempt. The kernel lets go for us."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def draining() -> Path:
    """A file that stands while this node is being taken down: nothing starts then."""
    return settings.runs / f".draining-{settings.node}"


def start_run(job_id: str, fence: int) -> None:
    """Start the attempt, unless it is started, starting, or no longer wanted."""
    if do(jobs.start_facts, job_id, fence) is None:
        return
    directory = directory_of(job_id, fence)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(directory) as only:
        if only and not draining().exists():
            start_alone(job_id, fence, directory)


def start_alone(job_id: str, fence: int, directory: Path) -> None:
    facts = do(jobs.start_facts, job_id, fence)
    if facts is None:
        return
    for earlier in facts.earlier:
        if not process.stop_attempt(job_id, earlier, STALE_GRACE):
            log.error("an earlier attempt cannot be killed", job=job_id, fence=earlier)
            return
    try:
        prepare(facts, directory)
        found = launch(facts, directory)
    except DBAPIError:
        raise
    except Exception as trouble:
        if temporary(trouble) and patient(directory):
            raise  # the sweep nudges us again
        log.exception("cannot start a run", job=job_id, fence=fence)
        error = cannot_start(trouble)
        do(results.finish, settings.node, job_id, fence, outcome="failed", error=error)
        return
    wanted = do(jobs.mark_started, job_id, fence, *found)
    log.info("run started", job=job_id, fence=fence, pid=found.pid, wanted=wanted)
    if not wanted:
        process.stop(*found, STALE_GRACE, process.marker(job_id, fence))


def temporary(trouble: Exception) -> bool:
    """A store or a disk that is away may come back; a file that is not there will not."""
    return not isinstance(trouble, ValueError | FileNotFoundError | PermissionError)


def patient(directory: Path) -> bool:
    """Whether to go on trying, counted from the first trouble of this attempt."""
    first = directory / "trouble"
    with contextlib.suppress(FileExistsError):
        first.touch(exist_ok=False)
    return time.time() - first.stat().st_mtime < STORE_PATIENCE


def prepare(facts: jobs.RunFacts, directory: Path) -> None:
    """Fetch what the run needs and write its `spec.json`: once, as a whole, never edited."""
    if (directory / "spec.json").exists():
        return
    hold(facts)
    base = storage.fetch(facts.base)
    many = 1 if facts.stage in {"merge", "evaluate"} else max(1, len(facts.devices))
    spec = RunSpec(
        job_id=facts.job_id,
        fence=facts.fence,
        stage=facts.stage,
        method=facts.method,
        base=str(base),
        adapter=str(storage.fetch(facts.adapter)) if facts.adapter else None,
        train=fetched(facts.train),
        mix=[part | {"rows": fetched(part["rows"])} for part in facts.mix],
        validation=fetched(facts.validation),
        split=facts.split,
        drop_leaks=facts.drop_leaks,
        hyperparameters=Hyperparameters.model_validate(facts.hyperparameters),
        format=facts.format,
        benchmark=facts.benchmark and facts.benchmark | {"data": str(settings.benchmark_data)},
        save_at=facts.save_at,
        resume_from=checkpoint(facts),
        report_to=facts.report_to,
        report_as=facts.report_as,
        device="cuda" if on_gpu(facts) else "cpu",
        devices=many,
        strategy=strategy(facts, base) if many > 1 else "ddp",
        threads=max(1, threads(len(facts.devices)) // many),
        cache=str(settings.cache / "tokens"),
    )
    partial = directory / "spec.json.partial"
    partial.write_text(spec.model_dump_json(indent=2))
    partial.rename(directory / "spec.json")


def hold(facts: jobs.RunFacts) -> None:
    """What the run reads stays here while its attempt is in force."""
    mixed = [segment for part in facts.mix for segment in part["rows"]]
    needed = [facts.base, facts.adapter, *facts.train, *mixed, *facts.validation]
    storage.hold(process.marker(facts.job_id, facts.fence), filter(None, needed))


def fetched(segments: list[str]) -> list[str]:
    return [str(storage.fetch(segment)) for segment in segments]


def on_gpu(facts: jobs.RunFacts) -> bool:
    return any(name.startswith("cuda") for name in facts.devices)


def checkpoint(facts: jobs.RunFacts) -> str | None:
    """The furthest complete checkpoint that an earlier attempt has left on this node, or, where
    that is further, in the store.
    """
    complete = [
        marker.parent
        for fence in facts.earlier
        for marker in directory_of(facts.job_id, fence).glob("checkpoints/checkpoint-*/complete")
    ]
    best = max(complete, key=step_of, default=None)
    if facts.stored and (best is None or step_of(best) < facts.stored[1]):
        artefact, step = facts.stored
        storage.hold(process.marker(facts.job_id, facts.fence), [artefact])
        return str(storage.fetch(artefact) / f"checkpoint-{step}")
    return str(best) if best else None


def threads(own: int) -> int:
    """This node's cores, divided among the devices that are held now."""
    with transaction() as db:
        held = db.scalars(
            select(Lease.device_id)
            .where(Lease.node_id == settings.node, Lease.released_at.is_(None))
            .distinct()
        ).all()
    return max(1, len(os.sched_getaffinity(0)) * own // max(len(held), own))


def strategy(facts: jobs.RunFacts, base: Path) -> Literal["ddp", "fsdp"]:
    """Share the model out where its full tuning fits no single device: weights, gradients and
    Adam's two moments in 32 bits are 16 bytes a parameter, which is stored in at least two.
    """
    stored = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    with transaction() as db:
        least = db.scalar(
            select(func.min(Device.memory)).where(
                Device.node_id == settings.node, Device.name.in_(facts.devices)
            )
        )
    shares = methods.shares(facts.stage, facts.method)
    return "fsdp" if shares and 8 * stored > 0.8 * (least or 0) else "ddp"


def launch(facts: jobs.RunFacts, directory: Path) -> process.Process:
    spec = RunSpec.model_validate_json((directory / "spec.json").read_bytes())
    cores = str(spec.threads)
    return process.start(
        command(spec, directory),
        cwd=ROOT,
        env=process.environment(
            facts.job_id,
            facts.fence,
            OMP_NUM_THREADS=cores,
            MKL_NUM_THREADS=cores,
            TOKENIZERS_PARALLELISM="false",
            CUDA_DEVICE_ORDER="PCI_BUS_ID",
            CUDA_VISIBLE_DEVICES=gpus.told_to_cuda(facts.devices),
            HF_HUB_OFFLINE="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        ),
        log=directory / "log",
        pidfile=directory / "pid",
        nice=NICE,
    )


def command(spec: RunSpec, directory: Path) -> list[str | Path]:
    """What is run: the stage, or torchrun with one of it for each device. A signal to torchrun
    reaches all of them, and the end of one ends the others.
    """
    stage = spec.stage if spec.stage in {"merge", "export", "evaluate"} else "train"
    module = f"workers.stages.{stage}"
    if spec.devices == 1:
        return [settings.train_python, "-m", module, directory]
    alone = ["--standalone", f"--nproc-per-node={spec.devices}", "--max-restarts=0"]
    return [settings.train_python, "-m", "torch.distributed.run", *alone, "-m", module, directory]


def cannot_start(error: Exception) -> dict[str, Any]:
    """What the job's page says of a run that could not be started."""
    if isinstance(error, FileNotFoundError) and not settings.train_python.exists():
        return {
            "code": "no_training_environment",
            "message": N_(
                "Node %(node)s has no training environment. Build it there (`make up` does), or "
                "point DANLU_TRAIN_PYTHON at one."
            ),
            "params": {"node": settings.node},
        }
    if isinstance(error, FileNotFoundError):
        return {
            "code": "artefact_missing",
            "message": N_("The store has lost a file that this job needs: %(artefact)s."),
            "params": {"artefact": str(error)},
        }
    return {
        "code": "cannot_start",
        "message": N_("Node %(node)s could not start the run: %(why)s"),
        "params": {"node": settings.node, "why": str(error)[:500]},
    }
