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
# Common characters, whether or not the corpus has them, so that other people's rows stay short.
CHARACTERS = """
的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心
她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世
位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空
决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运判断负评价商倾答选择类标签文章摘要
"""
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
    for character in CHARACTERS:
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
