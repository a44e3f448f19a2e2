"""The loss of models on held-out rows, all by one measure: `judge.py TOKENS MODEL…` (train env)."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from workers.stages import tokens
from workers.stages.trainer import collate, score

found = tokens.load(Path(sys.argv[1]))
assert found
held = found.validation
assert held
losses = []
for directory in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    total = 0.0
    with torch.no_grad():
        for row in range(len(held)):
            batch = collate(held, [row], packed=False)
            total += float(score(model, batch, torch.device("cpu"), scoring=False)[0])
    losses.append(total / held.carrying)
print(json.dumps(losses))
