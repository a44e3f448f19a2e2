"""What both engines share: what is to be started, and where it may compute."""

import os
from dataclasses import dataclass
from pathlib import Path

from app.config import settings
from app.deployments.replicas import ReplicaFacts
from workers.gpus import told_to_cuda


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
    visible = told_to_cuda(start.facts.devices)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}


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
