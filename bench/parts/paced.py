"""An engine for benches: streams as vLLM does, at its own pace. `python paced.py PORT`.

`max_tokens` is how many chunks there are, `seed` how many milliseconds lie between two. It is made
to cost little itself, for it shares a processor with the clients.
"""

import asyncio
import functools
import json
import sys
from typing import Any, cast

import httptools
import uvloop

EVENT = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"paced",'
    '"choices":%s%s}\n\n'
)
WORD = '[{"index":0,"delta":{"content":"word "},"logprobs":null,"finish_reason":null}]'
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LIVES = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
PROMPT = 9  # tokens


def framed(event: str) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event.encode())


@functools.cache
def chunk(choices: str, made: int | None) -> bytes:
    """One event; with the tokens so far, unless None."""
    told = ""
    if made is not None:
        counts = {
            "prompt_tokens": PROMPT,
            "total_tokens": PROMPT + made,
            "completion_tokens": made,
        }
        told = f',"usage":{json.dumps(counts, separators=(",", ":"))}'
    return framed(EVENT % (choices, told))


LAST = framed("data: [DONE]\n\n") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.next: asyncio.TimerHandle | None = None

    def connection_lost(self, _error: Exception | None) -> None:
        if self.next:
            self.next.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if not body:
            self.transport.write(LIVES)
            return
        asked: dict[str, Any] = json.loads(body)
        options = asked.get("stream_options") or {}
        self.counted = bool(options.get("continuous_usage_stats"))
        self.summed = bool(options.get("include_usage"))
        self.count, self.pause = asked.get("max_tokens") or 64, (asked.get("seed") or 0) / 1000
        self.began, self.made = self.loop.time(), 0
        self.transport.write(HEAD)
        self.say()

    def say(self) -> None:
        """The next chunk, and in time the one after it."""
        while self.made < self.count:
            self.made += 1
            self.transport.write(chunk(WORD, self.made if self.counted else None))
            if self.pause:
                at = self.began + self.made * self.pause
                self.next = self.loop.call_at(at, self.say)
                return
        if self.summed:
            self.transport.write(chunk("[]", self.count))
        self.transport.write(LAST)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
