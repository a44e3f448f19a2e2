"""What transformers makes of conversations: `<train_python> template_oracle.py DIR < cases.json`.

For each template a tokenizer is saved in DIR/<name> the way models come; then each case is put
through `apply_chat_template`. Prints a JSON list of [text, ids], or null where it refuses.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<p>"}


def main() -> None:
    directory, given = Path(sys.argv[1]), json.load(sys.stdin)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for name, template in given["templates"].items():
        words = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **SPECIAL)
        made.save_pretrained(directory / name, save_jinja_files=name != "legacy")
    tokenizers = {
        name: AutoTokenizer.from_pretrained(directory / name) for name in given["templates"]
    }
    answers = []
    for name, messages, tools, prompt in given["cases"]:
        tokenizer = tokenizers[name]
        how = {"tools": tools, "add_generation_prompt": prompt}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
            ids = tokenizer.apply_chat_template(messages, return_dict=False, **how)
            answers.append([text, ids])
        except Exception:  # noqa: BLE001 - the template's own refusals
            answers.append(None)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
