"""Chat rows of natural lengths, and a small model with the proportions of Qwen3-0.6B."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "app/datasets/samples/chat-en-general.jsonl"
STARTER = ROOT / "workers/starter/model"
MEDIAN, SPREAD, LONGEST = 60, 0.9, 700  # words of an answer: log-normal, as chats are

MODEL = """
import sys, torch
from transformers import Qwen3Config, Qwen3ForCausalLM
torch.manual_seed(7)
config = Qwen3Config(vocab_size=8192, hidden_size=192, intermediate_size=576,
    num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=3, head_dim=32,
    max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0,
    bos_token_id=None, dtype="float32")
Qwen3ForCausalLM(config).save_pretrained(sys.argv[1])
"""


def write(count: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    turns = [json.loads(line)["messages"] for line in SAMPLES.open()]
    asked = [turn["content"] for row in turns for turn in row if turn["role"] == "user"]
    said = [turn["content"] for row in turns for turn in row if turn["role"] == "assistant"]
    found = []
    for number in range(count):
        messages = []
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            words: list[str] = []
            wanted = min(LONGEST, round(chance.lognormvariate(0, SPREAD) * MEDIAN))
            while len(words) < wanted:
                words += chance.choice(said).split()
            question = chance.choice(asked)
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": " ".join(words[: max(wanted, 1)])},
            ]
        found.append({"id": f"r{number}", "messages": messages})
    return found


def model(python: Path, target: Path) -> None:
    subprocess.run([python, "-c", MODEL, target], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (target / name).write_bytes((STARTER / name).read_bytes())
