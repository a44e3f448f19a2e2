"""GPUs for tests: a libnvidia-ml.so.1 of ours, built by `cc`, that answers from a file.

nvidia-ml-py loads it as it loads NVIDIA's, in this process or in one that is started with
`environment`: every structure and error code on the way is the real one.
"""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pynvml

GIB = 1024**3
SOURCE = Path(__file__).with_name("nvml.c")


@functools.cache
def library() -> Path:
    built = Path(tempfile.mkdtemp(prefix="nvml-")) / "libnvidia-ml.so.1"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", built, SOURCE]
    subprocess.run(command, check=True)
    return built


class Cards:
    """What the stand-in says, to be changed at any time."""

    def __init__(self, file: Path, count: int = 8) -> None:
        self.file = file
        self.lines: dict[str, list[Any]] = {"driver": ["580.95.05"], "cuda": [13000]}
        self.set(count=count)
        for number in range(count):
            self.set(number, **h200(number))

    def set(self, owner: int | str = "", **values: Any) -> None:
        """Of the driver, of card 3, or of slice `3/0`; a list is a line each, None is no line."""
        for name, value in values.items():
            key = f"{owner}.{name}" if owner != "" else name
            self.lines[key] = value if isinstance(value, list) else [value]
            if value is None:
                del self.lines[key]
        text = "".join(f"{key} {one}\n" for key, all_of in self.lines.items() for one in all_of)
        partial = self.file.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(self.file)

    def slice(self, card: int, *profiles: str) -> None:
        """Cut a card up: `slice(0, "3g.71gb", "1g.18gb")`."""
        self.set(card, mig=1, slices=7)
        for number, profile in enumerate(profiles):
            size = int(profile.partition(".")[2].removesuffix("gb"))
            self.set(
                f"{card}/{number}",
                name=f"NVIDIA H200 MIG {profile}",
                uuid=f"MIG-0000000{card}-{number}",
                total=size * GIB,
                used=GIB // 2,
            )

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall see these cards."""
        return {"LD_LIBRARY_PATH": str(library().parent), "NVML_READINGS": str(self.file)}


def h200(number: int) -> dict[str, Any]:
    """One that has nothing to do."""
    return {
        "name": "NVIDIA H200",
        "uuid": f"GPU-0000000{number}-7bd1-4e5c-9d0a-2f1c5e6a7b80",
        "pci": f"00000000:{16 * number + 9:02X}:00.0",
        "compute": "9.0",
        "total": 150_754_820_096,
        "used": 640 * 1024**2,
        "use": 0,
        "temperature": 31,
        "power": 76_500,
        "limit": 700_000,
        "throttle": 1,
        "ecc": 0,
        "remap_pending": 0,
        "mig": 0,
    }


def use(monkeypatch: Any, cards: Cards) -> Cards:
    """Let this process see them."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library())))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    for name, value in cards.environment.items():
        monkeypatch.setenv(name, value)
    return cards
