"""peft's own merge: `<train_python> -m tests.workers.merge_oracle BASE MODE DIR`.

Makes a LoRA adapter with random matrices in DIR/adapter, its kind by MODE, and writes what
merge_and_unload makes of it to DIR/merged. `functions` compares what two models compute instead.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

KINDS = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
    "some": {"target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.mlp.up_proj": 5},
    },
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "biased": {"target_modules": ["q_proj"], "lora_bias": True},
    "pissa": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
}


def make(base: Path, kind: str, directory: Path) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8} | KINDS[kind]))
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(directory / "adapter", save_embedding_layers=False)
    again = AutoModelForCausalLM.from_pretrained(base)
    merged = PeftModel.from_pretrained(again, directory / "adapter").merge_and_unload()
    merged.save_pretrained(directory / "merged")


def same_function(base: Path, adapter: Path, merged: Path) -> None:
    """The merged model computes what base and adapter compute together."""
    ids = torch.randint(3, 400, (2, 17), generator=torch.Generator().manual_seed(1))
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    whole = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        torch.testing.assert_close(
            tuned(input_ids=ids).logits, whole(input_ids=ids).logits, atol=2e-4, rtol=1e-4
        )


if __name__ == "__main__":
    if sys.argv[1] == "functions":
        same_function(*(Path(argument) for argument in sys.argv[2:]))
    else:
        make(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
