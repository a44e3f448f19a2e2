"""Whether a GPU can be relied on, and what its driver says against it.

A problem is {code, grave, …}: a grave one makes the device unhealthy, so that it is given to
nobody; the others are told. The codes have their sentences in app/cluster/health.py. What counts
as grave follows NVIDIA's DCGM health checks and, for XID errors, the Kubernetes device plugin.
"""

import time
from collections.abc import Mapping
from typing import Any

import pynvml

# https://docs.nvidia.com/deploy/xid-errors: a program's own faults, and what was contained
PROGRAMS = {13, 31, 43, 45, 68, 109}
CONTAINED = {63, 92, 94}
RECENT = 3600.0  # seconds for which an error that is not grave is told
NOTES = {"remap_pending", "hot", "brake", "xid_program", "xid_contained"}

THROTTLE = {
    "power": pynvml.nvmlClocksThrottleReasonSwPowerCap,
    "heat": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
}


def problem(code: str, **params: Any) -> dict[str, Any]:
    return {"code": code, "grave": code not in NOTES, **params}


def problems(handle: Any, xids: Mapping[int, float]) -> list[dict[str, Any]]:
    """What speaks against a card; `xids` are those it reported, each with when it did last."""
    found = [xid for number, at in sorted(xids.items()) if (xid := judged(number, at))]
    if broken := uncorrected(handle):
        found.append(problem("ecc", count=broken))
    pending, failed = remapped(handle)
    if failed:
        found.append(problem("remap_failed"))
    elif pending:
        found.append(problem("remap_pending"))
    slowed = throttled(handle)
    if "heat" in slowed:
        found.append(problem("hot"))
    if "brake" in slowed:
        found.append(problem("brake"))
    return found


def judged(number: int, at: float) -> dict[str, Any] | None:
    if number not in PROGRAMS | CONTAINED:
        return problem("xid", xid=number, at=int(at))
    if time.time() - at > RECENT:
        return None
    code = "xid_program" if number in PROGRAMS else "xid_contained"
    return problem(code, xid=number, at=int(at))


def uncorrected(handle: Any) -> int:
    """Memory errors since the driver was loaded that could not be corrected."""
    kind, since = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(said(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, since) or 0)


def remapped(handle: Any) -> tuple[bool, bool]:
    """Whether broken rows of memory (before Ampere: pages) wait to be replaced at the next reset,
    and whether replacing one failed.
    """
    if rows := said(pynvml.nvmlDeviceGetRemappedRows, handle):
        return bool(rows[2]), bool(rows[3])
    return bool(said(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)), False


def throttled(handle: Any) -> list[str]:
    """Why its clocks are held down: power (its limit), heat, brake (the power supply asks)."""
    reasons = said(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    return [word for word, bits in THROTTLE.items() if reasons & bits]


def said(ask: Any, *args: Any) -> Any:
    """None where the card cannot say; what it is to be lost, the readings find out."""
    try:
        return ask(*args)
    except pynvml.NVMLError:
        return None
