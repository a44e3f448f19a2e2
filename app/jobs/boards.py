"""TensorBoard for a job, behind our sign-in: a process per job that is looked at, on a unix socket
that only we can open, ended by itself after ten minutes without a request.

Nothing is remembered here: a board is there when its socket answers. Its event files are written
from the database (app.jobs.eventfiles), and renewed while somebody looks.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.config import ROOT, settings
from app.errors import N_, Conflict, Unavailable
from app.jobs import eventfiles, service
from app.queue import transaction

MOST = 4  # at once: each takes some 200 MB
RENEWED = 3.0  # seconds between two looks at the database
SOCKET_LIMIT = 100  # bytes of a socket's address
STARTS_WITHIN = 60.0  # seconds
ANSWERS_WITHIN = 30.0
FORGOTTEN = 86_400.0  # seconds after which the files of a closed board go; they can be made again
PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")  # of our environment
KEPT = ("content-type", "content-encoding", "cache-control", "etag")
POLICY = (  # TensorBoard's own, without foreign places and frames
    "default-src 'self'; font-src 'self' data:; img-src 'self' data: blob:; object-src 'none'; "
    "style-src 'self' data: 'unsafe-inline'; connect-src 'self'; "
    "script-src 'self' 'unsafe-eval'; frame-ancestors 'none'"
)
started: dict[str, "subprocess.Popen[bytes]"] = {}  # for nothing but to be waited for


def home() -> Path:
    """Where boards live: ours alone."""
    found = settings.home / "boards"
    if len(bytes(found)) + 40 > SOCKET_LIMIT:
        name = hashlib.sha256(bytes(found)).hexdigest()[:12]
        found = Path("/tmp") / f"danlu-boards-{os.geteuid()}-{name}"  # noqa: S108 - looked at below
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = found.lstat()
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise Unavailable(N_("TensorBoard has no directory of its own to work in."))
    return found


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def answers(directory: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(directory / "socket"))
        except OSError:
            return False
        return True


def starting(directory: Path) -> bool:
    try:
        began = (directory / "began").stat().st_mtime
    except OSError:
        return False
    return time.time() - began < STARTS_WITHIN


def open_board(workspace_id: str, job_id: str, prefix: str) -> None:
    """Start the job's board unless it is there. Raises Conflict, Unavailable or NotFound."""
    if not settings.train_python.exists():
        raise Unavailable(
            N_("TensorBoard comes with the training environment, which this machine does not have.")
        )
    directory = home() / job_id
    with transaction() as db:  # before anything is made for it
        service.get(db, workspace_id, job_id)
    with alone(directory):
        renew(workspace_id, job_id, directory)
        if not (directory / "runs").is_dir():
            raise Conflict(N_("There is nothing to show yet: no step has been taken."))
        if answers(directory) or starting(directory):
            return
        others = []
        for one in home().iterdir():
            if one != directory and answers(one):
                others.append(one)
            elif one != directory and time.time() - one.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(one, ignore_errors=True)
        if len(others) >= MOST:
            raise Unavailable(
                N_(
                    "%(most)s TensorBoards are open already. Each closes by itself after ten"
                    " minutes without use."
                ),
                retry_after=60,
                most=MOST,
            )
        (directory / "socket").unlink(missing_ok=True)
        (directory / "began").touch()
        for name in [name for name, process in started.items() if process.poll() is not None]:
            del started[name]
        with (directory / "log").open("wb") as log:
            started[job_id] = subprocess.Popen(
                [settings.train_python, "-m", "workers.board", directory, prefix],
                cwd=ROOT,
                env={name: os.environ[name] for name in PASSED if name in os.environ}
                | {"HOME": str(directory), "TMPDIR": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def renew(workspace_id: str, job_id: str, directory: Path) -> None:
    """Write what the database has new, at most every few seconds. Raises NotFound."""
    stamp = directory / "renewed"
    with transaction() as db:
        job = service.get(db, workspace_id, job_id)
        if stamp.exists() and time.time() - stamp.stat().st_mtime < RENEWED:
            return
        stamp.touch()
        eventfiles.write(db, job, directory)


def ask(
    job_id: str, method: str, path: str, query: str, body: bytes, content_type: str
) -> httpx.Response | None:
    """The board's answer; None if there is no board. It gets no cookie and no header of ours but
    the type of the body.
    """
    directory = home() / job_id
    if not answers(directory):
        return None
    transport = httpx.HTTPTransport(uds=str(directory / "socket"))
    headers = {"accept-encoding": "identity"}
    if content_type:
        headers["content-type"] = content_type
    address = f"http://tensorboard{path}" + (f"?{query}" if query else "")
    try:
        with httpx.Client(transport=transport, timeout=ANSWERS_WITHIN) as client:
            return client.request(method, address, headers=headers, content=body)
    except httpx.HTTPError:
        return None


def kept_headers(answer: httpx.Response) -> dict[str, str]:
    """What a reader may see of the board's headers; the policy is ours."""
    kept = {name: answer.headers[name] for name in KEPT if name in answer.headers}
    return kept | {"content-security-policy": POLICY}
