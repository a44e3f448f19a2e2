"""Build a small random model and an adapter for it: `<train_python> tests/workers/served.py DIR`.

DIR/base and DIR/adapter. Heads of 64, the smallest that every engine serves; the adapter is
strong enough to change each answer.
"""

import sys
from pathlib import Path

from tiny import CHATML, tokenizer


def main() -> None:
    target = Path(sys.argv[1])
    words = tokenizer(CHATML, "<|im_end|>")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        architectures=["Qwen3ForCausalLM"],
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(target / "base")
    lora = LoraConfig(
        r=12, lora_alpha=96, target_modules="all-linear", init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    get_peft_model(model, lora).save_pretrained(target / "adapter")
    for name in ("base", "adapter"):
        words.save_pretrained(target / name)


if __name__ == "__main__":
    main()
