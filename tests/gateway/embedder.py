"""Build a small random embedding model: `<train_python> tests/gateway/embedder.py DIR`.

BERT with two layers, as sentence-transformers keeps it: the mean of all tokens, of length one.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "abcdefghijklmnopqrstuvwxyz0123456789.,?!你好天气很今质量差不一二三"


def tokenizer() -> PreTrainedTokenizerFast:
    pieces = [*SPECIAL, *TEXT, *(f"##{char}" for char in TEXT)]
    made = Tokenizer(
        models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad", "unk", "cls", "sep", "mask")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=128,
        **{f"{name}_token": one for name, one in zip(names, SPECIAL, strict=True)},
    )


def main() -> None:
    target = Path(sys.argv[1])
    words = tokenizer()
    words.save_pretrained(target)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(target)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds)
    ]
    (target / "modules.json").write_text(json.dumps(listed))
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})
    )


if __name__ == "__main__":
    main()
