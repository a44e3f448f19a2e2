"""A run's own TensorBoard file, in the format of app.jobs.tfevents."""

import time
from pathlib import Path

from app.jobs.tfevents import TAGS, opening, scalars


class Board:
    """One file of scalars, made with the first of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path: Path | None = None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Those of `values` that have a tag."""
        at = time.time()
        data = scalars(at, step, {TAGS[key]: one for key, one in values.items() if key in TAGS})
        if self.path is None:
            self.directory.mkdir(exist_ok=True)
            self.path = self.directory / f"events.out.tfevents.{at:.0f}.danlu"
            data = opening(at) + data
        with self.path.open("ab") as file:
            file.write(data)
