"""Weights & Biases, SwanLab and MLflow on this node: which of them a run may report to, and the
process beside a run that does it (workers/stages/reports.py).

A trainer has no account. That process gets the user's token, else their workspace's, else the node's
own, on its standard input: it stands in no argument, no environment, no file and no log. It outlives
this one; a second one finds the first at work, and leaves.
"""

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.config import ROOT, settings
from app.errors import DomainError
from app.jobs import reporters as offers
from app.jobs.tables import Job
from app.nodework.asking import do
from workers import process

log = structlog.get_logger()

# name → what has to be set for it to be offered (one of them), besides being installed
ACCOUNTS = {
    "wandb": ("WANDB_API_KEY", "WANDB_MODE"),
    "swanlab": ("SWANLAB_API_KEY", "SWANLAB_MODE"),
    "mlflow": ("MLFLOW_TRACKING_URI",),
}
# what a token of ours is called by each library
TOKENS = {
    "wandb": "WANDB_API_KEY",
    "swanlab": "SWANLAB_API_KEY",
    "mlflow": "MLFLOW_TRACKING_TOKEN",
}
SECRET = ("_API_KEY", "_TOKEN", "_PASSWORD", "_SECRET")  # ends of names that are no settings
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")
PAUSE = 30.0  # seconds before one that died is started again
MOST = 5  # starts of one run's


@dataclass
class Beside:
    """The process that reports a run."""

    child: subprocess.Popen[bytes] | None = None
    starts: int = 0
    next_start: float = 0.0


beside: dict[Path, Beside] = {}


def installed() -> list[str]:
    """Those in the training environment."""
    sites = list(settings.train_python.parent.parent.glob("lib/python*/site-packages"))
    return [name for name in ACCOUNTS if any((site / name).is_dir() for site in sites)]


def available() -> list[str]:
    """Those that also have an account of this node's."""
    return [name for name in installed() if any(os.environ.get(one) for one in ACCOUNTS[name])]


def of_node(name: str) -> dict[str, str]:
    """The service's own variables here."""
    prefix = f"{name.upper()}_"
    return {key: value for key, value in os.environ.items() if key.startswith(prefix)}


def environment(job: Job) -> dict[str, str]:
    """What everybody may see: settings of the services, and the way out. No marker of the run: it is
    not to be stopped with it.
    """
    own = process.environment(job.id, job.fence)
    del own["DANLU_RUN"]
    known = {key: value for name in job.report_to for key, value in of_node(name).items()}
    public = {key: value for key, value in known.items() if not key.endswith(SECRET)}
    return own | public | {name: os.environ[name] for name in PROXIES if name in os.environ}


def accounts(job: Job) -> dict[str, dict[str, str]]:
    """For each service what is secret. Raises sealing.WrongKey."""
    kept = do(offers.tokens, job.id, job.fence)
    found = {}
    for name in job.report_to:
        ours = {key: value for key, value in of_node(name).items() if key.endswith(SECRET)}
        found[name] = {TOKENS[name]: kept[name]} if name in kept else ours
    return found


def look(job: Job, directory: Path) -> None:
    """See that the run is reported while there is something to report."""
    one = beside.setdefault(directory, Beside())
    if one.child and one.child.poll() is None:
        return
    if over(directory) or one.starts >= MOST or time.monotonic() < one.next_start:
        return
    one.starts, one.next_start = one.starts + 1, time.monotonic() + PAUSE
    try:
        one.child = start(job, directory)
    except (OSError, DomainError) as error:
        log.warning("a run is not reported", job=job.id, why=str(error))


def over(directory: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((directory / "reports.json").read_bytes()).get("done"))
    return False


def start(job: Job, directory: Path) -> subprocess.Popen[bytes]:
    line = json.dumps(accounts(job)).encode() + b"\n"
    descriptor = os.open(directory / "reports.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        child = subprocess.Popen(
            [settings.train_python, "-m", "workers.stages.reports", directory],
            cwd=ROOT,
            env=environment(job),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(line)
    return child


def forget(directories: set[Path]) -> None:
    """All but these: their runs are over here."""
    for directory in beside.keys() - directories:
        child = beside[directory].child
        if child is None or child.poll() is not None:
            del beside[directory]
