"""Many clients at once, each asking again when it has its answer: how many, how soon, in how many pieces."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

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


class Client(asyncio.Protocol):
    """A connection, and what its next answer brings: as little work as can be, so that the processor
    is left to what is measured."""

    def __init__(self) -> None:
        self.lost: Exception | None = None
        self.begin()

    def begin(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.first = 0.0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = error or ConnectionError("the other side has closed")
        if not self.ended.done():
            self.ended.set_exception(self.lost)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.first = self.first or time.perf_counter()
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def ask(self, request: bytes, words: int, cell: Cell) -> None:
        """One answer, whole: its status, every word and the end."""
        self.begin()
        began = time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(120):
            await self.ended
        body = b"".join(self.pieces)
        whole = body.count(b"word ") == words and b"[DONE]" in body[-64:]
        if self.parser.get_status_code() != 200 or not whole:
            cell.failed += 1
            return
        cell.first.append(self.first - began)
        cell.pieces.append(len(self.pieces))


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
    content = json.dumps(body).encode()
    at = urlsplit(url)
    assert at.hostname
    assert at.port
    host, port = at.hostname, at.port
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {at.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    ).encode() + content
    began = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal left
        await asyncio.sleep(number * chunks * pace / 1000 / streams)  # not all in one step
        mine: Client | None = None
        while time.perf_counter() - began < seconds or left > 0:
            left -= 1
            if mine is None or mine.lost:  # a proxy may close a connection after an answer
                loop = asyncio.get_running_loop()
                _, mine = await loop.create_connection(Client, host, port)
            await mine.ask(request, chunks, cell)
        if mine is not None:
            mine.transport.close()

    await asyncio.gather(*(client(number) for number in range(streams)))
    cell.seconds = time.perf_counter() - began
    return cell
