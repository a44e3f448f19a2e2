"""How surprising texts are to a base model: `python -m workers.stages.perplexity <model directory>`.

A line `{"text": …}` comes in, a line `{"perplexity": …}` goes out, until the input ends. Runs on
the processor, in the training environment; whoever started it holds the other ends of the pipes.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from workers.stages.models import check_base

MOST_TOKENS = 1024  # of a text: what follows is not judged


def main() -> None:
    directory = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    check_base(directory)
    model, tokenizer = load(directory)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin.buffer:
        value = perplexity(model, tokenizer, json.loads(line)["text"])
        print(json.dumps({"perplexity": value}), file=answers, flush=True)


def load(directory: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    model = AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )
    return model.eval(), tokenizer


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Exp of the mean loss of a token, the first one left out; 1 for what has no second token."""
    import torch

    longest = min(MOST_TOKENS, getattr(model.config, "max_position_embeddings", MOST_TOKENS))
    tokens = tokenizer(
        text, return_tensors="pt", truncation=True, max_length=longest, add_special_tokens=False
    )
    ids = tokens["input_ids"]
    if ids.shape[1] < 2:
        return 1.0
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
    return math.exp(min(loss, 100.0)) if math.isfinite(loss) else 1e9


if __name__ == "__main__":
    main()
