"""What both engines share: what is to be started, and where it may compute."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config import settings
from app.deployments.replicas import ReplicaFacts

PROBE_SECONDS = 180  # a first import of vLLM reads a few hundred MB


@dataclass(frozen=True)
class Start:
    """One start of an engine, everything fetched and decided."""

    facts: ReplicaFacts
    model: Path  # directory of a whole model
    adapter: Path | None
    host: str
    port: int
    secret: str
    directory: Path  # the run directory

    @property
    def on_gpu(self) -> bool:
        return any(name.startswith("cuda") for name in self.facts.devices)


@dataclass(frozen=True)
class Command:
    argv: list[str]
    env: dict[str, str]  # beside what `process.environment` passes


def offline() -> dict[str, str]:
    """No engine asks or tells the network anything."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def gpus(start: Start) -> dict[str, str]:
    """The devices an engine may see: those it holds, none on a node without."""
    visible = [name.partition(":")[2] for name in start.facts.devices if name.startswith("cuda")]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(visible)}


def cores(devices: list[str]) -> list[int]:
    """The processor cores that belong to devices `cpu:0`, `cpu:1` …: each an equal share."""
    allowed = sorted(os.sched_getaffinity(0))
    count = max(settings.cpu_devices, 1)
    mine: set[int] = set()
    for name in devices:
        index = int(name.partition(":")[2] or 0)
        first, after = index * len(allowed) // count, (index + 1) * len(allowed) // count
        mine.update(allowed[first:after] or [allowed[index % len(allowed)]])
    return sorted(mine) or allowed


def importable(python: Path, module: str, distribution: str) -> dict[str, Any]:
    """Whether `python` can import `module`: {available, reason, version}.

    Really imported, once: the answer is kept in the cache until the environment changes.
    """
    if not python.exists():
        return {"available": False, "reason": f"there is no {python}", "version": ""}
    known = settings.cache / "engines" / f"{module}.json"
    key = [str(python), *(path.stat().st_mtime for path in site_packages(python))]
    try:
        kept = json.loads(known.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("key") == key:
        return dict(kept["found"])
    found = probe(python, module, distribution)
    if found["available"]:  # a failure is looked at again: memory or time may have been short
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps({"key": key, "found": found}))
    return found


def site_packages(python: Path) -> list[Path]:
    return sorted(python.parent.parent.glob("lib/python3*/site-packages"))


def probe(python: Path, module: str, distribution: str) -> dict[str, Any]:
    code = (
        f"import {module}, importlib.metadata as m\n"
        f"print({module}.__version__ or m.version({distribution!r}))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env={"PATH": os.environ.get("PATH", "")} | offline(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"available": False, "reason": str(error)[:300], "version": ""}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or [""]
    if done.returncode:
        return {"available": False, "reason": lines[-1][:300], "version": ""}
    return {"available": True, "reason": "", "version": lines[-1]}
