"""What an exported model is held to: `<train_python> -m tests.workers.export_oracle …`.

`tensors BASE ADAPTER GGUF BITS` compares every tensor of the file with the weights that transformers
loads (and peft merges). `greedy BASE ADAPTER SAID` looks at what llama_cpp.py wrote.
ADAPTER may be "-".
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def load(base: str, adapter: str):
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    if adapter != "-":
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.float().eval()


def tensors(base: str, adapter: str, path: str, bits: str) -> None:
    model = load(base, adapter)
    expected = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        module, kind = name.rsplit(".", 1)
        if module.startswith("model.layers."):
            number, _, module = module.removeprefix("model.layers.").partition(".")
            expected[f"blk.{number}.{PLACES[module]}.{kind}"] = weight.numpy()
        else:
            expected[f"{PLACES[module]}.{kind}"] = weight.numpy()
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert set(found) - {"rope_freqs.weight"} == set(expected), set(found) ^ set(expected)
    for name, weight in expected.items():
        tensor, wanted = found[name], weight
        if model.config.model_type in {"llama", "mistral"} and ("_q." in name or "_k." in name):
            wanted = turned(model.config, name, weight)
        values = dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        if wanted.ndim == 1:
            assert (values == wanted).all(), name
        elif bits == "f16":
            assert (values == wanted.astype(np.float16).astype(np.float32)).all(), name
        else:
            step = np.abs(wanted.reshape(-1, 32)).max(1, keepdims=True) / 127
            error = np.abs((values - wanted).reshape(-1, 32))
            assert (error <= 0.57 * step + 1e-6).all(), name  # the step is a float16
            assert tensor.n_bytes < wanted.size * 1.1, name


def turned(config, name: str, weight: np.ndarray) -> np.ndarray:
    heads = config.num_attention_heads if "_q." in name else config.num_key_value_heads
    pairs = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def greedy(base: str, adapter: str, said: str) -> None:
    """What llama.cpp took, token by token, is what transformers holds for the likeliest.

    llama.cpp multiplies in float16, so of two that are all but equally likely it may take the other.
    """
    found = json.loads(Path(said).read_text())
    prompt, tokens = found["prompt"], found["tokens"]
    words = AutoTokenizer.from_pretrained(base)
    assert prompt == words(found["text"]).input_ids
    with torch.no_grad():
        logits = load(base, adapter)(torch.tensor([prompt + tokens])).logits[
            0, len(prompt) - 1 : -1
        ]
    logits[:, [words.eos_token_id, words.pad_token_id]] = -1e3  # it was told not to end
    taken = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    behind = (logits.max(1).values - taken) / logits.std(1)
    assert behind.max() < 0.01, behind
    assert int((behind == 0).sum()) >= len(tokens) - 2, behind


if __name__ == "__main__":
    {"tensors": tensors, "greedy": greedy}[sys.argv[1]](*sys.argv[2:])
