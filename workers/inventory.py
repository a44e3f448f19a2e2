"""What this node has: devices with their load, versions, and which engines work here.

A GPU driver can hang and an engine's import takes seconds, so both are asked in threads of
their own; a heartbeat never waits for either for long.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Timeout
from pathlib import Path
from typing import Any

import psutil
import pynvml
import structlog

from app.config import ROOT, settings

log = structlog.get_logger()

NVML_TIMEOUT = 5.0  # seconds
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


class Gpus:
    """The GPUs, asked with a time limit. A driver that hangs is asked once, not every beat."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self.asked: Future[list[dict[str, Any]]] | None = None
        self.last: list[dict[str, Any]] = []

    def list(self) -> list[dict[str, Any]]:
        """As `devices`; those of the last answer, unhealthy, while the driver says nothing."""
        self.asked = self.asked or self.pool.submit(gpus)
        try:
            self.last = self.asked.result(NVML_TIMEOUT if not self.last else 1)
            self.asked = None
        except Timeout:
            log.warning("the GPU driver does not answer", seconds=NVML_TIMEOUT)
            self.last = [device | {"healthy": False, "stats": {}} for device in self.last]
        return self.last


def gpus() -> list[dict[str, Any]]:
    """Every GPU that NVML lists and CUDA_VISIBLE_DEVICES, where it is set, does not hide."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: no GPU
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        found = [gpu(index) for index in range(count)]
    finally:
        pynvml.nvmlShutdown()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return found
    names = {name.strip() for name in allowed.split(",")}
    return [device for device in found if {device["name"][5:], device["uuid"]} & names]


def gpu(index: int) -> dict[str, Any]:
    device = {"name": f"cuda:{index}", "kind": "cuda", "model": "", "uuid": "", "memory": 0}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        device |= {
            "model": text(pynvml.nvmlDeviceGetName(handle)),
            "uuid": text(pynvml.nvmlDeviceGetUUID(handle)),
            "memory": int(memory.total),
        }
        stats: dict[str, Any] = {"memory": int(memory.used)}
        with contextlib.suppress(pynvml.NVMLError):  # not every card, nor a slice of one, tells
            stats["use"] = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            stats["temperature"] = int(pynvml.nvmlDeviceGetTemperature(handle, 0))
        return device | {"healthy": True, "stats": stats}
    except pynvml.NVMLError as error:  # fallen off the bus
        return device | {"healthy": False, "stats": {"error": str(error)}}


def text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def cpus() -> list[dict[str, Any]]:
    """A node without a GPU: the processor as `DANLU_CPU_DEVICES` equal devices."""
    count = max(1, settings.cpu_devices)
    memory = psutil.virtual_memory()
    stats = {
        "use": round(psutil.cpu_percent()),  # percent, since the last time, of the whole machine
        "memory": (memory.total - memory.available) // count,
    }
    return [
        {
            "name": f"cpu:{index}",
            "kind": "cpu",
            "model": processor(),
            "uuid": "",
            "memory": total_memory() // count,
            "healthy": True,
            "stats": stats,
        }
        for index in range(count)
    ]


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
    answer = probe(python, PROBES[name][1])
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
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"available": False, "version": "", "reason": str(error)}
    said = [line for line in done.stdout.splitlines() if line.startswith("version ")]
    if done.returncode == 0 and said:
        return {"available": True, "version": said[-1].removeprefix("version "), "reason": ""}
    last = (done.stderr.strip() or "it ended without a word").splitlines()[-1]
    return {"available": False, "version": "", "reason": last[-300:]}
