"""An engine at the place of the training environment's interpreter: our real front, and behind
it a server that answers "ab " for each token asked. Starts in a second and needs no torch.

`install` makes the executable; the test's code runs before it serves, with NAME and PORT.
"""

import sys
from pathlib import Path

CODE = """#!{python}
import asyncio, json, os, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
assert sys.argv[1:3] == ["-m", "workers.engines.serve_transformers"], sys.argv
FLAGS = dict(zip(sys.argv[3::2], sys.argv[4::2]))
NAME, PORT = FLAGS["--name"], int(FLAGS["--port"])
print("danlu: loading", FLAGS["--model"], flush=True)
{code}
import uvicorn
from workers.engines.front import Front

async def server(scope, receive, send):
    async def out(kind, data, more=False):
        if kind:
            head = [(b"content-type", kind)]
            await send({{"type": "http.response.start", "status": 200, "headers": head}})
        await send({{"type": "http.response.body", "body": data, "more_body": more}})
    if scope["path"] == "/health":
        return await out(b"application/json", b"{{}}")
    asked = json.loads((await receive())["body"])
    count = asked.get("max_tokens", 3)
    usage = {{"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}}
    if not asked.get("stream"):
        content = {{"message": {{"role": "assistant", "content": "ab " * count}}, "text": "ab " * count}}
        answer = {{"choices": [{{"index": 0, "finish_reason": "stop"}} | content], "usage": usage}}
        return await out(b"application/json", json.dumps(answer).encode())
    await out(b"text/event-stream", b"", True)
    for number in range(count):
        choice = {{"index": 0, "delta": {{"content": "ab "}}, "text": "ab "}}
        await out(None, b"data: " + json.dumps({{"choices": [choice]}}).encode() + b"\\n\\n", True)
    last = {{"choices": [{{"index": 0, "delta": {{}}, "finish_reason": "stop"}}], "usage": usage}}
    await out(None, b"data: " + json.dumps(last).encode() + b"\\n\\n")

front = Front(
    server, name=NAME, model="tiny", secret=os.environ.pop("DANLU_ENGINE_SECRET"),
    max_model_len=512, chats=True, remember=lambda body: None,
)
uvicorn.run(front, port=PORT, access_log=False, timeout_graceful_shutdown=1)
"""


def install(directory: Path, code: str = "") -> Path:
    """The interpreter that serves, for `settings.train_python`."""
    path = directory / "engine-python"
    root = str(Path(__file__).resolve().parents[2])
    path.write_text(CODE.format(python=sys.executable, root=root, code=code))
    path.chmod(0o755)
    return path
