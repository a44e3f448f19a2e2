"""An engine for benches: streams as vLLM does, at its own pace. `python paced.py PORT`.

`max_tokens` is how many chunks there are, `seed` how many milliseconds lie between two.
"""

import asyncio
import json
import sys
import time
from typing import Any

import uvicorn

HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"paced","choices":'
WORD = '[{"index":0,"delta":{"content":"word "},"logprobs":null,"finish_reason":null}]'
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def usage(prompt: int, made: int) -> str:
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
    return f',"usage":{json.dumps(counts, separators=(",", ":"))}'


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    asked = json.loads(body or b"{}")
    options = asked.get("stream_options") or {}
    count, pause = asked.get("max_tokens") or 64, (asked.get("seed") or 0) / 1000
    began = time.perf_counter()

    async def say(text: str, *, more: bool = True) -> None:
        event = f"data: {text}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": more})

    for number in range(count):
        told = usage(9, number + 1) if options.get("continuous_usage_stats") else ""
        await say(f"{HEAD}{WORD}{told}}}")
        if pause:
            await asyncio.sleep(max(0.0, began + (number + 1) * pause - time.perf_counter()))
    if options.get("include_usage"):
        await say(f"{HEAD}[]{usage(9, count)}}}")
    await say("[DONE]", more=False)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", access_log=False, log_level="warning")
