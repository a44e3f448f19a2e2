"""Many clients at once, each asking again when it has its answer: how many, how soon, in how many pieces."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

HELLO = [{"role": "user", "content": "Say a word, and again."}]


@dataclass
class Cell:
    """What came of some seconds of it."""

    seconds: float = 0.0
    first: list[float] = field(default_factory=list)  # seconds to the first piece of each answer
    pieces: list[int] = field(default_factory=list)  # of each answer
    failed: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.first) / self.seconds

    @property
    def first_ms(self) -> float:
        return statistics.median(self.first) * 1000

    @property
    def pieces_each(self) -> float:
        return statistics.mean(self.pieces)


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any], cell: Cell) -> None:
    began = time.perf_counter()
    first, pieces, words, tail = 0.0, 0, 0, b""
    async with session.post(url, json=body) as response:
        async for piece in response.content.iter_any():
            first = first or time.perf_counter() - began
            pieces += 1
            words += piece.count(b"word ")  # LiteLLM adds an event of its own
            tail = piece
        if response.status != 200 or words != body["max_tokens"] or b"[DONE]" not in tail:
            cell.failed += 1
            return
    cell.first.append(first)
    cell.pieces.append(pieces)


async def run(
    url: str,
    key: str,
    *,
    streams: int,
    seconds: float = 0.0,
    requests: int = 0,
    chunks: int = 64,
    pace: int = 5,
) -> Cell:
    """`streams` clients for `seconds`, or until `requests` are answered."""
    cell = Cell()
    body = {
        "model": "paced",
        "messages": HELLO,
        "stream": True,
        "max_tokens": chunks,
        "seed": pace,
    }
    left = requests
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"authorization": f"Bearer {key}"},
        timeout=aiohttp.ClientTimeout(total=120),
    ) as session:
        began = time.perf_counter()

        async def client(number: int) -> None:
            nonlocal left
            await asyncio.sleep(number * chunks * pace / 1000 / streams)  # not all in one step
            while time.perf_counter() - began < seconds or left > 0:
                left -= 1
                await ask(session, f"{url}/v1/chat/completions", body, cell)

        await asyncio.gather(*(client(number) for number in range(streams)))
        cell.seconds = time.perf_counter() - began
    return cell
