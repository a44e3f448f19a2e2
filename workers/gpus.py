"""The GPUs of this node, as NVML tells of them: what they are, how they do, who uses them.

A session with the driver stays open, for critical errors (XID) are told only to who listens; it
is opened anew when a card was lost, so that one that was reset is found again.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Timeout
from typing import Any

import psutil
import pynvml
import structlog

from app.cluster import nodes
from app.config import settings
from app.queue import transaction
from workers import health

log = structlog.get_logger()

NVML_TIMEOUT = 5.0  # seconds
REOPEN = 60.0  # seconds between two looks for a lost card that is back
EVENTS = 100  # critical errors taken at one reading
GONE = {
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_UNINITIALIZED,
}
Device = dict[str, Any]


class Gpus:
    """The GPUs, asked with a time limit. A driver that hangs is asked once, not every beat."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self.session = Session()
        self.asked: Future[list[Device]] | None = None
        self.last: list[Device] = []

    def list(self) -> list[Device]:
        """As `Session.read`; those of the last answer, unhealthy, while the driver is silent."""
        self.asked = self.asked or self.pool.submit(self.session.read)
        try:
            self.last = self.asked.result(NVML_TIMEOUT if not self.last else 1)
            self.asked = None
        except Timeout:
            log.warning("the GPU driver does not answer", seconds=NVML_TIMEOUT)
            silent = {"healthy": False, "problems": [health.problem("silent")], "stats": {}}
            self.last = [device | silent for device in self.last]
        except Exception:
            self.asked = None
            raise
        return self.last

    @property
    def versions(self) -> dict[str, str]:
        return self.session.versions


class Session:
    """An open NVML. Used by one thread."""

    def __init__(self) -> None:
        self.open = False
        self.since = 0.0
        self.versions: dict[str, str] = {}  # {driver, cuda}
        self.events: Any = None
        self.uuids: dict[int, str] = {}  # of the cards whose errors we hear of, by handle
        self.known: dict[int, Device] = {}  # what each card once said of itself, by index
        self.lost: set[int] = set()
        self.xids: dict[str, dict[int, float]] = {}  # card → XID → when last, as time.time()

    def read(self) -> list[Device]:
        """Every GPU, or slice of one, that CUDA_VISIBLE_DEVICES, where it is set, does not hide:
        {name, kind, model, uuid, memory, healthy, problems, facts, stats, processes}.

        `facts` {card, pci, compute, slice}; `stats` {use (percent), memory (bytes), temperature
        (°C), power, power_limit (W), throttle}: what a card does not say is left out.
        `processes` [{pid, memory (bytes, None: unknown)}].
        """
        try:
            self.begin()
        except pynvml.NVMLError:  # no driver: no GPU
            self.close()
            return []
        try:
            self.listen()
            count = pynvml.nvmlDeviceGetCount()
            found = [device for index in range(count) for device in self.card(index)]
        except BaseException:
            self.close()
            raise
        if self.lost and time.monotonic() - self.since > REOPEN:
            self.close()
            self.begin()
        return visible(found)

    def begin(self) -> None:
        if self.open:
            return
        pynvml.nvmlInit()
        self.open, self.since = True, time.monotonic()
        version = told(pynvml.nvmlSystemGetCudaDriverVersion)
        self.versions = {
            "driver": text(told(pynvml.nvmlSystemGetDriverVersion) or ""),
            "cuda": f"{version // 1000}.{version % 1000 // 10}" if version else "",
        }
        with contextlib.suppress(pynvml.NVMLError):
            self.events = pynvml.nvmlEventSetCreate()
            for index in range(pynvml.nvmlDeviceGetCount()):
                self.subscribe(index)

    def subscribe(self, index: int) -> None:
        with contextlib.suppress(pynvml.NVMLError):  # a lost card, or one that tells nothing
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            kinds = pynvml.nvmlEventTypeXidCriticalError
            if pynvml.nvmlDeviceGetSupportedEventTypes(handle) & kinds:
                pynvml.nvmlDeviceRegisterEvents(handle, kinds, self.events)
                self.uuids[address(handle)] = text(pynvml.nvmlDeviceGetUUID(handle))

    def close(self) -> None:
        if not self.open:
            return
        with contextlib.suppress(pynvml.NVMLError):
            if self.events:
                pynvml.nvmlEventSetFree(self.events)
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        self.open, self.events, self.uuids = False, None, {}

    def listen(self) -> None:
        """Take the critical errors that came since the last reading."""
        for _ in range(EVENTS if self.events else 0):
            try:
                event = pynvml.nvmlEventSetWait_v2(self.events, 0)
            except pynvml.NVMLError:  # none left
                return
            uuid = self.uuids.get(address(event.device), "")
            self.xids.setdefault(uuid, {})[int(event.eventData)] = time.time()
            log.warning("a GPU reports a critical error", gpu=uuid, xid=int(event.eventData))

    def card(self, index: int) -> list[Device]:
        """One device, or one for each slice of a card that is cut up (MIG)."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if index in self.lost:  # it was reset: what it reported before is over
                self.xids.pop(text(pynvml.nvmlDeviceGetUUID(handle)), None)
            whole = self.whole(index, handle)
            sliced = self.slices(whole, handle)
        except pynvml.NVMLError as error:  # fallen off the bus
            blank = {"name": f"cuda:{index}", "kind": "cuda", "model": "", "uuid": "", "memory": 0}
            before = self.known.get(index, blank | {"facts": {}})
            self.lost.add(index)
            lost = health.problem("lost", why=str(error))
            return [before | {"healthy": False, "problems": [lost], "stats": {}, "processes": []}]
        self.lost.discard(index)
        if sliced is not None:
            return sliced
        self.known[index] = {
            key: whole[key] for key in ("name", "kind", "model", "uuid", "memory", "facts")
        }
        return [whole]

    def whole(self, index: int, handle: Any) -> Device:
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
        total, used = memory(handle)
        pci = told(pynvml.nvmlDeviceGetPciInfo, handle)
        compute = told(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        problems = health.problems(handle, self.xids.get(uuid, {}))
        return {
            "name": f"cuda:{index}",
            "kind": "cuda",
            "model": text(pynvml.nvmlDeviceGetName(handle)),
            "uuid": uuid,
            "memory": total,
            "healthy": not any(problem["grave"] for problem in problems),
            "problems": problems,
            "facts": {
                "card": uuid,
                "pci": text(pci.busId) if pci else "",
                "compute": ".".join(map(str, compute)) if compute else "",
            },
            "stats": {"memory": used} | readings(handle),
            "processes": processes(handle),
        }

    def slices(self, whole: Device, handle: Any) -> list[Device] | None:
        """None for a card that is not cut up. Heat, power and health are the card's; how busy it
        is, no slice can say.
        """
        mode = told(pynvml.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return None
        found = []
        for number in range(told(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = told(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            if part is None:  # numbers may have gaps
                continue
            total, used = memory(part)
            model = text(pynvml.nvmlDeviceGetName(part))
            kept = {key: value for key, value in whole["stats"].items() if key != "use"}
            found.append(
                whole
                | {
                    "name": f"{whole['name']}:{number}",
                    "model": model,
                    "uuid": text(pynvml.nvmlDeviceGetUUID(part)),
                    "memory": total,
                    "facts": whole["facts"] | {"slice": model.rpartition(" ")[2]},
                    "stats": kept | {"memory": used},
                    "processes": processes(part),
                }
            )
        return found


# -- one card ----------------------------------------------------------------------------


def told(ask: Callable[..., Any], *args: Any) -> Any:
    """What the driver answers; None where this card, or a slice of one, cannot say. Raises
    NVMLError where the card is gone.
    """
    try:
        return ask(*args)
    except pynvml.NVMLError as error:
        if error.value in GONE:
            raise
        return None


def memory(handle: Any) -> tuple[int, int]:
    """(all, used) in bytes; of a GPU without memory of its own, the machine's."""
    if found := told(pynvml.nvmlDeviceGetMemoryInfo, handle):
        return int(found.total), int(found.used)
    shared = psutil.virtual_memory()
    return shared.total, shared.total - shared.available


def readings(handle: Any) -> dict[str, Any]:
    """What `stats` has beside memory."""
    use = told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    watts = told(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    stats = {
        "use": int(use.gpu) if use else None,
        "temperature": told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power": None if watts is None else round(watts / 1000, 1),
        "power_limit": None if limit is None else round(limit / 1000, 1),
        "throttle": health.throttled(handle) or None,
    }
    return {name: value for name, value in stats.items() if value is not None}


def processes(handle: Any) -> list[dict[str, Any]]:
    """Everything that computes or draws on it, whoever started it."""
    found: dict[int, int | None] = {}
    for ask in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for one in told(ask, handle) or ():
            found[int(one.pid)] = one.usedGpuMemory
    return [{"pid": pid, "memory": used} for pid, used in sorted(found.items())]


def visible(found: list[Device]) -> list[Device]:
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return found
    names = {name.strip() for name in allowed.split(",")}
    return [
        device
        for device in found
        if {device["name"].split(":")[1], device["uuid"], device["facts"].get("card")} & names
    ]


def told_to_cuda(names: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES for devices of this node, by name: cuda:3 by its number, cuda:3:0, a
    slice, by its UUID, which is all that CUDA takes.
    """
    gpus = [name for name in names if name.startswith("cuda")]
    sliced = [name for name in gpus if name.count(":") > 1]
    uuids: dict[str, str] = {}
    if sliced:
        with transaction() as db:
            uuids = nodes.uuids(db, settings.node, sliced)
    return ",".join(uuids.get(name) or name.partition(":")[2] for name in gpus)


def address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
