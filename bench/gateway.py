"""What the gateway costs: streams through it, beside streams without it and through LiteLLM.

An engine that paces itself (64 chunks, 5 ms apart) is asked directly, through Danlu's gateway (one
`danlu gateway`, with a key that has every kind of limit, and metering into Postgres), through LiteLLM (one
worker, no database) and through a relay that checks and counts nothing (bench/parts/relay.py), by turns
in one run. The proxies have the first processor for themselves, everything else the second. Both are kept
awake by a process that runs when nothing else does: to wake a halted processor of a virtual machine
costs its waker up to 0.1 ms, at each chunk, which says nothing of the proxy.

    python bench/gateway.py [requests of the memory part]

The last line is one JSON object; docs/benchmarks.md says what its keys mean.
"""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.cli.stack import free_port
from bench.parts import streams

LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
ROUNDS = 3
SECONDS = 4.0  # of one measurement
MANY = 128  # streams
SHORT = 4  # chunks of an answer in the memory part, without pauses
AWAKE = """
import os, pathlib
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
group = pathlib.Path("/proc/self/autogroup")  # Linux weighs sessions first, then what is in them
if group.exists():
    group.write_text("19")
while True:
    pass
"""
NEIGHBOUR = dict(os.environ) | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # without our servers
MASTER_KEY = "sk-bench-6b1f0c9d2e7a4385"


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# -- what is measured --------------------------------------------------------------------


class Target:
    """An address, and the process behind it, if it is a proxy."""

    def __init__(self, name: str, port: int, key: str, process: psutil.Process | None) -> None:
        self.name, self.url, self.key = name, f"http://127.0.0.1:{port}", key
        self.process = process
        self.rates: list[float] = []
        self.cpu_ms: list[float] = []
        self.pieces: list[float] = []
        self.first_ms: list[float] = []

    def cpu(self) -> float:
        """Seconds of processor time so far, children included."""
        if self.process is None:
            return 0.0
        all_of_it = [self.process, *self.process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in all_of_it)

    async def many(self) -> None:
        before = self.cpu()
        cell = await streams.run(self.url, self.key, streams=MANY, seconds=SECONDS)
        answered = len(cell.first)
        self.rates.append(cell.rate)
        self.cpu_ms.append((self.cpu() - before) * 1000 / answered)
        self.pieces.append(cell.pieces_each)
        tell(
            f"{self.name:8} {MANY} streams: {cell.rate:6.1f} answers/s   "
            f"{self.cpu_ms[-1]:5.2f} CPU-ms each   first byte {cell.first_ms:7.1f} ms   "
            f"{cell.pieces_each:.1f} pieces   {cell.failed} failed"
        )
        assert not cell.failed, f"{self.name}: {cell.failed} answers were not whole"

    async def one(self) -> None:
        cell = await streams.run(self.url, self.key, streams=1, seconds=SECONDS)
        self.first_ms.append(cell.first_ms)
        tell(f"{self.name:8}   1 stream:  first byte {cell.first_ms:6.2f} ms")


async def growth(target: Target, requests: int) -> float:
    """MB by which the process is larger after so many requests, the first 5 % left out."""
    assert target.process is not None
    many = {"streams": 32, "chunks": SHORT, "pace": 0}
    await streams.run(target.url, target.key, requests=max(requests // 20, 500), **many)
    before = target.process.memory_info().rss
    cell = await streams.run(target.url, target.key, requests=requests, **many)
    after = target.process.memory_info().rss
    grown = (after - before) / 1e6
    tell(f"{requests} requests: {cell.rate:.0f}/s, from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    assert not cell.failed
    return grown


async def measure(targets: list[Target], requests: int) -> dict[str, Any]:
    direct, danlu, litellm, relay = targets
    for target in targets:  # connections, caches, compiled code
        await streams.run(target.url, target.key, streams=8, seconds=1)
    for _ in range(ROUNDS):
        for target in targets:
            await target.many()
        for target in (direct, danlu):
            await target.one()
    pairs = list(zip(danlu.rates, direct.rates, strict=True))
    added = zip(danlu.first_ms, direct.first_ms, strict=True)
    return {
        "throughput_vs_direct": round(statistics.median(a / b for a, b in pairs), 3),
        "cpu_ms_per_request": round(statistics.median(danlu.cpu_ms), 2),
        "litellm_cpu_ms_per_request": round(statistics.median(litellm.cpu_ms), 1),
        "relay_cpu_ms_per_request": round(statistics.median(relay.cpu_ms), 2),
        "chunks_per_response": round(statistics.median(danlu.pieces), 1),
        "upstream_chunks_per_response": round(statistics.median(direct.pieces), 1),
        "added_first_byte_ms": round(statistics.median(a - b for a, b in added), 2),
        "rss_growth_mb": round(await growth(danlu, requests), 1),
    }


# -- what it takes -----------------------------------------------------------------------


@contextlib.contextmanager
def running(argv: list[str], log: Path, cpu: int) -> Iterator[psutil.Process]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *argv],
            cwd=ROOT,
            env=os.environ if sys.executable in argv else NEIGHBOUR,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(url: str, log: Path) -> None:
    """Raises RuntimeError with the end of the log."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def servers(home: Path) -> Iterator[None]:
    """Postgres and Valkey, and the environment that names them to us and to the gateway."""
    from app import embedded

    at = embedded.place(home)
    os.environ |= {"DATABASE_URL": at.database_url, "REDIS_URL": at.redis_url}
    started = [
        (embedded.start_postgres(at, home / "postgres.log"), signal.SIGINT),
        (embedded.start_valkey(at, home / "valkey.log"), signal.SIGTERM),
    ]
    try:
        while not (embedded.postgres_ready(at) and embedded.valkey_ready(at)):
            time.sleep(0.1)
        yield
    finally:
        for process, kind in started:
            embedded.stop(process, kind)


def make_rows(engine: str) -> str:
    """A deployment that leads to `engine`; the secret of a key with every kind of limit."""
    from sqlalchemy import select

    from app import seed
    from app.accounts import keys
    from app.accounts.tables import User, Workspace
    from app.deployments.tables import Deployment, Replica
    from app.models import service as models
    from app.models.tables import Model
    from app.queue import transaction

    seed.migrate()
    with transaction() as db:
        seed.first_account(db)
        models.ensure_starter(db)
        user = db.scalars(select(User)).one()
        workspace = db.scalars(select(Workspace).where(Workspace.personal_of.is_(None))).one()
        made = Deployment(
            workspace_id=workspace.id,
            created_by=user.id,
            name="paced",
            mode="base",
            engine="vllm",
            model_id=db.scalars(select(Model.id)).first(),
            state="ready",
        )
        db.add(made)
        db.flush()
        at = {"state": "ready", "address": engine, "secret": "s", "engine": "vllm", "fence": 1}
        db.add(Replica(deployment_id=made.id, index=0, **at))
        limits = {
            "models": ["paced"],
            "ips": ["127.0.0.0/8"],
            "rpm": 1_000_000,
            "tpm": 10**12,
            "parallel": 10_000,
            "daily_tokens": 10**12,
            "total_tokens": 10**12,
        }
        return keys.create_api_key(
            db,
            workspace_id=workspace.id,
            user_id=user.id,
            name="bench",
            scopes=["inference"],
            **limits,
        )[1]


def write_config(home: Path, engine: str) -> Path:
    """LiteLLM's: one model, no database."""
    path = home / "litellm.yaml"
    at = {"model": "openai/paced", "api_base": f"{engine}/v1", "api_key": "s"}
    settings = {"master_key": MASTER_KEY}
    path.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "paced", "litellm_params": at}],
                "general_settings": settings,
            }
        )
    )
    return path


def metered(answers: int) -> int:
    """Rows in the ledger, once the spool is empty; there are at least so many."""
    from sqlalchemy import func, select

    from app.queue import transaction
    from app.quotas.tables import Usage

    for _ in range(60):
        with transaction() as db:
            rows = db.scalar(select(func.count()).where(Usage.completed, Usage.status == 200)) or 0
        if rows >= answers:
            break
        time.sleep(0.5)
    return rows


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    proxies, rest = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {rest})
    base = Path(tempfile.mkdtemp(prefix="danlu-bench-", dir="/tmp"))
    base.chmod(0o711)
    home = base / "home"
    home.mkdir(mode=0o711)
    ports = [free_port() for _ in range(4)]
    engine = f"http://127.0.0.1:{ports[0]}"
    os.environ |= {"DANLU_HOME": str(home), "DANLU_PORT": str(ports[1])}
    try:
        with contextlib.ExitStack() as stack:
            for cpu in (proxies, rest):
                awake = [sys.executable, "-c", AWAKE]
                stack.enter_context(running(awake, base / "awake.log", cpu))
            stack.enter_context(servers(home))
            key = make_rows(engine)
            paced = [sys.executable, "bench/parts/paced.py", str(ports[0])]
            stack.enter_context(running(paced, base / "paced.log", rest))
            edge = stack.enter_context(
                running([sys.executable, "-m", "app.edge"], base / "edge.log", proxies)
            )
            config = write_config(base, engine)
            litellm = stack.enter_context(
                running(
                    [
                        *(str(LITELLM), "--config", str(config), "--num_workers", "1"),
                        *("--host", "127.0.0.1", "--port", str(ports[2])),
                    ],
                    base / "litellm.log",
                    proxies,
                )
            )
            bare = [sys.executable, "bench/parts/relay.py", str(ports[3]), engine]
            relay = stack.enter_context(running(bare, base / "relay.log", proxies))
            until(f"http://127.0.0.1:{ports[1]}/readyz", base / "edge.log")
            until(f"http://127.0.0.1:{ports[2]}/health/liveliness", base / "litellm.log")
            until(f"http://127.0.0.1:{ports[3]}/openapi.json", base / "relay.log")
            targets = [
                Target("direct", ports[0], "s", None),
                Target("danlu", ports[1], key, edge),
                Target("litellm", ports[2], MASTER_KEY, litellm),
                Target("relay", ports[3], "-", relay),
            ]
            facts = uvloop.run(measure(targets, requests))
            tell(f"{metered(requests)} rows in the ledger")
        tell(json.dumps(facts))
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
