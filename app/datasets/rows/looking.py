"""Reading many rows while somebody waits.

A look goes in stretches of a fraction of a second: each request takes one, and the next goes on
from there. No database session is held.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.errors import DomainError

STRETCH = 0.4  # seconds


@dataclass
class Progress:
    """How far a look has come. What it finds, the class of its kind adds."""

    complete: bool = False
    read: int = 0  # rows
    total: int = 0
    error: DomainError | None = None


Found = TypeVar("Found", bound=Progress)


class Look(ABC, Generic[Found]):
    def __init__(self, found: Found) -> None:
        self.found = found
        self.lock = threading.Lock()
        self.steps = self.go()

    @abstractmethod
    def go(self) -> Iterator[None]:
        """Everything, with a pause now and then. Raises DomainError, which is kept in `found`."""

    def stretch(self, seconds: float) -> Found:
        """Go on for a while; whoever comes meanwhile sees how far it is."""
        if self.found.complete or not self.lock.acquire(blocking=False):
            return self.found
        try:
            until = time.monotonic() + seconds
            while next(self.steps, self) is not self:
                if time.monotonic() > until:
                    return self.found
            self.found.complete = True
        except DomainError as error:
            self.found.error, self.found.complete = error, True
        finally:
            self.lock.release()
        return self.found
