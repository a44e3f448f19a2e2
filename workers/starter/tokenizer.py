"""The starter model's tokenizer: byte-level BPE over words of ours, so any text can be written.

It learns from a list of words rather than from sentences: generated sentences repeat
themselves, and BPE would make one token of each favourite phrase. So a token is at most a
word; what is not in the list falls apart into characters, then bytes.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from workers.starter import english, words

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Runs of Han, words with the space before them, single digits, punctuation, white space.
PIECES = r"\p{Han}+| ?[A-Za-z]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+|."
VOCABULARY = 4096


def list_of_words() -> Iterable[str]:
    """Each word of the starter model's world, once."""
    for table in (words.ASPECTS, words.PRODUCTS):
        for row in table:
            for column in row:
                yield from (word for word in column if len(word) <= 4 or word.isascii())
    yield from words.COMMON + words.PEOPLE + words.DEGREES + words.BLAME_DEGREES
    for table in (english.ASPECTS, english.COUNTRIES, english.KINDS, english.OPPOSITES):
        for row in table:
            for column in row:
                yield from column


def train(sentences: Iterable[str]) -> Tokenizer:
    """A tokenizer from the list of words, and from the characters and Latin words of `sentences`."""
    seen: Counter[str] = Counter()
    for sentence in sentences:
        seen.update(re.findall(r"[\u4e00-\u9fff]| ?[A-Za-z]+|[^\w\s]", sentence))
    for word in list_of_words():
        seen[word] += 200
        if word.isascii():
            seen[" " + word] += 200
    for character in words.CHARACTERS:
        seen[character] += 1000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=3,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = sorted(word for word, count in seen.items() for _ in range(min(count, 1000)))
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 2048,
    "clean_up_tokenization_spaces": False,
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
}
