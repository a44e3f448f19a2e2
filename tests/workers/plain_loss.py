"""`plain_loss MODEL SEGMENT OUT`: the loss of rows as transformers computes it, one by one."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.datasets.rows import segments


def main() -> None:
    base, segment, out = sys.argv[1:]
    words = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    total, count = 0.0, 0
    for line in segments.lines(Path(segment)):
        messages = json.loads(line)["messages"]
        text = words.apply_chat_template(messages, tokenize=False).removesuffix("\n")
        prompt = words.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
        asked = len(words(prompt, add_special_tokens=False)["input_ids"])
        labels = ids.clone()
        labels[:, :asked] = -100
        trained = ids.shape[1] - asked
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * trained
        count += trained
    Path(out).write_text(str(total / count))


if __name__ == "__main__":
    main()
