"""What was looked up in the rows, remembered for a moment, so that a busy gateway asks them once."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

MOST = 10_000  # things that are remembered
K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Many who want the same at once look once, and share what comes of it, an error too. An error is
    not remembered.
    """

    def __init__(self) -> None:
        self.known: dict[K, tuple[float, V]] = {}
        self.looking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, seconds: float, look: Callable[[], V]) -> V:
        """What is known and no older than that, else what `look` finds, in a thread. Raises what it
        does.
        """
        known = self.known.get(key)
        if known is not None and time.monotonic() - known[0] < seconds:
            return known[1]
        task = self.looking.get(key)
        if task is None:
            task = asyncio.create_task(self.look(key, look))
            self.looking[key] = task
            task.add_done_callback(lambda done: self.looked(key, done))
        return await asyncio.shield(task)

    async def look(self, key: K, look: Callable[[], V]) -> V:
        """What is there now, whoever else looks."""
        began = time.monotonic()
        found = await run_in_threadpool(look)
        if len(self.known) > MOST:
            self.known.clear()
        self.known[key] = (began, found)
        return found

    def looked(self, key: K, done: asyncio.Task[V]) -> None:
        self.looking.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever still waits has it too

    def forget(self, key: K) -> None:
        self.known.pop(key, None)
