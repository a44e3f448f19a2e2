"""peft's own merge: `<train_python> -m tests.workers.merge_oracle BASE MODE DIR`.

Makes a LoRA adapter with random matrices in DIR/adapter, its kind by MODE, and writes what
merge_and_unload makes of it to DIR/merged. `functions` compares what two models compute instead.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

LINEAR = ["q_proj", "down_proj"]
KINDS = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 3},
    "some": {"target_modules": LINEAR},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.mlp.up_proj": 5},
    },
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "dora-embedding": {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    "dora-rslora": {"target_modules": LINEAR, "use_dora": True, "use_rslora": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "conv1d": {"target_modules": ["c_attn", "c_proj", "c_fc"]},  # one of them is square
    "conv1d-dora": {"target_modules": ["c_attn", "c_proj"], "use_dora": True},
    "pissa": {"target_modules": LINEAR, "init_lora_weights": "pissa"},
    "pissa-converted": {"target_modules": LINEAR, "init_lora_weights": "pissa"},
    "pissa-conv1d": {"target_modules": ["c_attn"], "init_lora_weights": "pissa"},
    "olora": {"target_modules": LINEAR, "init_lora_weights": "olora"},
}


def make(base: Path, kind: str, directory: Path) -> None:
    torch.set_num_threads(1)  # a product is the same to the last bit for the same threads
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8} | KINDS[kind]))
    options = {"save_embedding_layers": kind == "dora-embedding"}
    if kind == "pissa-converted":
        config = tuned.peft_config["default"]
        config.init_lora_weights = True
        tuned.save_pretrained(directory / "initial")
        config.init_lora_weights = "pissa"
        options["path_initial_model_for_weight_conversion"] = str(directory / "initial")
    for name, weight in tuned.named_parameters():
        if "lora_magnitude" in name:
            weight.data *= 1 + 0.1 * torch.randn_like(weight)
        elif "lora_" in name or "modules_to_save" in name:
            weight.data += 0.2 * torch.randn_like(weight)
    tuned.save_pretrained(directory / "adapter", **options)
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
