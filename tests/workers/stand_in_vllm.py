"""A server in the place of vLLM's: takes our flags, loads and unloads adapters by vLLM's routes,
and answers with the name that was asked and what the adapter's file `voice` says. No torch.

`test_engines.py` and `test_hot.py` have the real one.
"""

import sys
from pathlib import Path

CODE = """#!{python}
import json, os, sys
from pathlib import Path
assert sys.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"], sys.argv
words = sys.argv[3:]
flags = {{w: words[i + 1] if i + 1 < len(words) else "" for i, w in enumerate(words) if w[:2] == "--"}}
base = flags["--served-model-name"]
hot = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1" and "--enable-lora" in flags
loaded = {{}}
if own := flags.get("--lora-modules"):
    name, _, path = own.partition("=")
    loaded[name] = path
made = 0
print("Application startup complete", flush=True)
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

def error(status, message):
    return JSONResponse({{"error": {{"message": message, "code": status}}}}, status)

async def complete(request):
    global made
    body = await request.json()
    name, count = body["model"], body.get("max_tokens") or 3
    if name != base and name not in loaded:
        return error(404, f"The model `{{name}}` does not exist.")
    voice = (Path(loaded[name]) / "voice").read_text() if name in loaded else "base"
    made += count
    usage = {{"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}}
    text = json.dumps({{"voice": voice, "body": body}})
    said = {{"message": {{"role": "assistant", "content": text}}, "text": text, "index": 0}}
    return JSONResponse({{"model": name, "choices": [said], "usage": usage}})

async def load(request):
    body = await request.json()
    name, path = body["lora_name"], Path(body["lora_path"])
    if name in loaded:
        return error(400, f"The lora adapter '{{name}}' has already been loaded.")
    if not path.is_dir():
        return error(404, "No adapter found for " + str(path))
    if (path / "broken").exists():
        return error(500, "LoRA rank 512 is greater than max_lora_rank 32.")
    loaded[name] = str(path)
    return PlainTextResponse("Success")

async def unload(request):
    name = (await request.json())["lora_name"]
    if loaded.pop(name, None) is None:
        return error(404, "cannot be found")
    return PlainTextResponse("Success")

def health(request):
    return PlainTextResponse("")

def models(request):
    return JSONResponse({{"data": [{{"id": name}} for name in [base, *loaded]]}})

def metrics(request):
    return PlainTextResponse(f"vllm:generation_tokens_total {{made}}\\n")

routes = [Route("/health", health), Route("/v1/models", models), Route("/metrics", metrics)]
routes += [Route("/v1/" + path, complete, methods=["POST"]) for path in ("completions", "chat/completions")]
if hot:
    routes += [Route("/v1/load_lora_adapter", load, methods=["POST"])]
    routes += [Route("/v1/unload_lora_adapter", unload, methods=["POST"])]
uvicorn.run(Starlette(routes=routes), port=int(flags["--port"]), access_log=False)
"""


def install(directory: Path) -> Path:
    """The interpreter that serves, for `settings.serve_python`."""
    path = directory / "vllm-python"
    path.write_text(CODE.format(python=sys.executable))
    path.chmod(0o755)
    return path
