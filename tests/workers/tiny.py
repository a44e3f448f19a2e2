"""Build a small random model: `<train_python> tests/workers/tiny.py DIR [JSON]`.

Qwen3 with two layers, a byte-level BPE tokenizer and a ChatML template. The JSON object changes
things: {"weights": false, "dtype": "bfloat16", "tied": false, "broken": true, "eos": "…",
"kind": "llama" | "qwen2" | "gpt2" | "mistral", "config": {…}}.
"""

import json
import sys
from pathlib import Path

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"
)
ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
TEXT = """The quick brown fox jumps over the lazy dog. What is the colour of the sky? It is blue.
今天天气很好，我们去公园散步吧。这家店的面条很好吃，服务也不错。一二三四五六七八九十
user assistant system tool sentiment positive negative good bad 正面 负面 好 坏 0123456789"""


def tokenizer(eos: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXT.splitlines(),
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=eos, pad_token="<|endoftext|>", chat_template=CHATML
    )


def main() -> None:
    target, options = Path(sys.argv[1]), json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    words = tokenizer(options.get("eos", "<|im_end|>"))
    words.save_pretrained(target)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = options.get("dtype", "float32")
    kind = options.get("kind", "qwen3")
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    if kind == "gpt2":
        shape = {"n_embd": 64, "n_inner": 128, "n_layer": 2, "n_head": 4, "n_positions": 512}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(words) + 8,
        tie_word_embeddings=options.get("tied", True),
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        dtype=dtype,
        architectures=[ARCHITECTURES[kind]],
        initializer_range=0.1,
        **shape | options.get("config", {}),
    )
    if not options.get("weights", True):
        config.save_pretrained(target)
        return
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    if "kind" in options:  # so that no two vectors are alike
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.data += 0.1 * torch.randn_like(weight)
    if options.get("broken"):
        model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(target)


if __name__ == "__main__":
    main()
