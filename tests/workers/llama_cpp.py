"""What llama.cpp makes of a model: `<python> tests/workers/llama_cpp.py GGUF PROMPT TARGET`.

Writes {text, prompt, tokens}: the prompt, its tokens, and 24 greedy ones after them.
"""

import json
import sys
import urllib.request
from pathlib import Path

import xllamacpp


def main(model: str, prompt: str, target: str) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx, settings.n_parallel, settings.port = 512, 1, 0
    settings.cpuparams.n_threads = 2
    settings.warmup, settings.verbosity = False, -1
    server = xllamacpp.Server(settings)

    def ask(path: str, **body: object) -> dict:
        request = urllib.request.Request(
            server.listening_address + path,
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    tokens = ask("/tokenize", content=prompt, add_special=True, parse_special=True)["tokens"]
    said = ask(
        "/completion",
        prompt=prompt,
        n_predict=24,
        temperature=0,
        top_k=1,
        ignore_eos=True,
        return_tokens=True,
    )
    Path(target).write_text(
        json.dumps({"text": prompt, "prompt": tokens, "tokens": said["tokens"]})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
