"""What this node has beside its GPUs (workers/gpus.py): the processor as devices, versions, and
which engines work here.

An engine's import takes seconds, so it is asked in a thread of its own; a heartbeat never waits.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import psutil

from app.config import ROOT, settings
from workers import process

PROBE_TIMEOUT = 300.0  # seconds: a first import compiles, on a busy machine
# What each engine needs to be importable, in its interpreter.
PROBES = {
    "vllm": ("serve_python", "import vllm.entrypoints.openai.api_server, vllm as engine"),
    "transformers": ("train_python", "import torch, transformers as engine"),
}


# Minutes of import on a slow disk must not slow pages down; see also workers/launch.py.
POLITELY = """\
import contextlib, pathlib
with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/autogroup").write_text("10")
"""


# -- devices -----------------------------------------------------------------------------


class Cpus:
    """A node without a GPU: the processor as `DANLU_CPU_DEVICES` equal devices, each as busy as
    the runs that hold it make it.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.spent: dict[process.Process, float] = {}  # seconds of processor, at the last look

    def list(self, holders: Mapping[str, AbstractSet[str]]) -> list[dict[str, Any]]:
        """As `gpus.Session.read`. `holders`: device → the ids of who holds it."""
        count = max(1, settings.cpu_devices)
        names = [f"cpu:{index}" for index in range(count)]
        cores = len(os.sched_getaffinity(0)) / count
        loads = self.loads() if any(holders.values()) else {}
        heat = temperature()
        found = []
        for name in names:
            busy = memory = 0.0
            for owner in holders.get(name, ()):
                spread = sum(owner in owners for owners in holders.values())
                seconds, resident = loads.get(owner, (0.0, 0))
                busy, memory = busy + seconds / spread, memory + resident / spread
            stats = {"use": min(100, round(100 * busy / cores)), "memory": round(memory)}
            found.append(
                {
                    "name": name,
                    "kind": "cpu",
                    "model": processor(),
                    "uuid": "",
                    "memory": total_memory() // count,
                    "healthy": True,
                    "problems": [],
                    "facts": {},
                    "stats": stats | ({} if heat is None else {"temperature": heat}),
                    "processes": [],
                }
            )
        return found

    def loads(self) -> dict[str, tuple[float, int]]:
        """Owner → (processors that its processes kept busy since the last look, their memory in
        bytes).
        """
        at, before = time.monotonic(), self.spent
        passed, self.at, self.spent = max(at - self.at, 0.001), at, {}
        found: dict[str, tuple[float, int]] = {}
        for run, members in process.attempts().items():
            seconds = resident = 0.0
            for one in members:
                with contextlib.suppress(psutil.Error):
                    known = psutil.Process(one.pid)
                    times = known.cpu_times()
                    self.spent[one] = times.user + times.system
                    seconds += max(0.0, self.spent[one] - before.get(one, 0.0))
                    resident += known.memory_info().rss
            owner = run.rpartition("-")[0]
            found[owner] = (seconds / passed, int(resident))
        return found


def temperature() -> int | None:
    """The processor's, in °C, where the machine tells."""
    known = psutil.sensors_temperatures()
    read = [one.current for name in ("coretemp", "k10temp") for one in known.get(name, ())]
    return round(max(read)) if read else None


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def total_memory() -> int:
    """Bytes: the machine's, or the container's limit where that is less."""
    total = psutil.virtual_memory().total
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # another cgroup version, or no limit
            continue
    return total


# -- facts -------------------------------------------------------------------------------


def versions() -> dict[str, Any]:
    """{danlu, python, system, processor, cores, memory, driver}: what does not change."""
    return {
        "danlu": importlib.metadata.version("danlu"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": total_memory(),
        "driver": driver(),
    }


def driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().split("Module")[1].split()[0]
    except (OSError, IndexError):
        return ""


def engine(name: str) -> dict[str, Any]:
    """Whether an engine's environment works: {available, version, reason}. Takes seconds.

    Asked by importing what the engine imports, without the platform's environment; the answer
    is kept until the environment changes.
    """
    python: Path = getattr(settings, PROBES[name][0])
    if not python.exists():
        return {"available": False, "version": "", "reason": f"{python} does not exist"}
    kept = settings.cache / f"engine-{name}.json"
    state = fingerprint(python)
    try:
        known = json.loads(kept.read_text())
        if known["state"] == state:
            return dict(known["answer"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        answer = probe(python, PROBES[name][1])
    except subprocess.TimeoutExpired:  # the machine is busy: its own start will tell
        return {"available": True, "version": "", "reason": ""}
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"state": state, "answer": answer}))
    partial.rename(kept)
    return answer


def fingerprint(python: Path) -> list[str]:
    """Changes when packages come or go."""
    sites = sorted(python.parent.parent.glob("lib/python*/site-packages"))
    return [str(python), *(f"{site}:{site.stat().st_mtime_ns}" for site in sites)]


def probe(python: Path, code: str) -> dict[str, Any]:
    """Raises TimeoutExpired."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    code = f"{POLITELY}{code}; print('version', engine.__version__)"
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", "--", str(python), "-c", code],
            cwd=ROOT,
            env=clean | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT,
            start_new_session=True,
        )
    except OSError as error:
        return {"available": False, "version": "", "reason": str(error)}
    said = [line for line in done.stdout.splitlines() if line.startswith("version ")]
    if done.returncode == 0 and said:
        return {"available": True, "version": said[-1].removeprefix("version "), "reason": ""}
    last = (done.stderr.strip() or "it ended without a word").splitlines()[-1]
    return {"available": False, "version": "", "reason": last[-300:]}
