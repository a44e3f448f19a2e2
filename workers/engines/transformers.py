"""The second engine: `transformers serve` from the training environment, behind our own front.

It is always there, and runs where vLLM cannot. The front is `serve_transformers.py`, one
process with the engine: neither outlives the other.
"""

import re
from functools import partial

from app.config import ROOT, settings
from app.deployments.sizing import LONG_PROMPTS
from workers.engines import vllm
from workers.engines.common import Command, Start, cores, gpus, offline

NAME = "transformers"
COUNTER = "danlu:generation_tokens_total"
BUSY = ("danlu:num_requests_running",)
PAGE = 32  # tokens in a block of the cache


def command(start: Start) -> Command:
    """The argument vector and environment of one engine."""
    if start.adapter:
        raise ValueError("transformers serves no adapters: merge first")
    facts = start.facts
    argv = [
        *(str(settings.train_python), "-m", "workers.engines.serve_transformers"),
        *("--model", str(start.model), "--name", facts.name),
        *("--host", start.host, "--port", str(start.port)),
        *("--max-model-len", str(facts.max_model_len)),
        *("--device", "cuda" if start.on_gpu else "cpu"),
        *("--blocks", str(LONG_PROMPTS * -(-facts.max_model_len // PAGE)), "--page", str(PAGE)),
    ]
    threads = str(len(cores(facts.devices)))
    env = (
        offline()
        | gpus(start)
        | {
            "DANLU_ENGINE_SECRET": start.secret,
            "HF_HOME": str(start.directory / "hub"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
    )
    return Command(argv, env)


PHASES = (
    ("load", re.compile(r"danlu: loading")),
    ("warm", re.compile(r"danlu: warming")),
)
phase = partial(vllm.phase, phases=PHASES)
progress = vllm.progress  # transformers' own bar is of the same words
explain = vllm.explain  # the same memory errors of torch; vLLM's own texts never appear
