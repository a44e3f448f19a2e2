"""Build an adapter for the starter model: `<train_python> tests/workers/served.py BASE TARGET`.

Random, of rank 12, and strong enough to change each answer.
"""

import sys

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    base, target = sys.argv[1:3]
    lora = LoraConfig(
        r=12, lora_alpha=48, target_modules="all-linear", init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(target)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)


if __name__ == "__main__":
    main()
