"""Which language a text is in, by its letters alone: fast enough for every row."""

import re
from typing import Literal

Language = Literal["zh", "en", "mixed", "other"]
LANGUAGES: tuple[Language, ...] = ("zh", "en", "mixed", "other")

LOOKED_AT = 2000  # characters
MOST = 0.8  # of the words, for a text to be of one language
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]+")
WORD = re.compile("[^\\W\\d_\u3400-\u4dbf\u4e00-\u9fff]+")
LATIN = re.compile("[A-Za-z]+")
# all but ASCII, Chinese and the signs around it: where there is none of it, words are plain Latin
RARE = re.compile(
    "[^\x00-\x7f\u2010-\u2027\u3000-\u3004\u3008-\u3020\u3400-\u4dbf\u4e00-\u9fff"
    "\uff01-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
JAPANESE = re.compile("[\u3040-\u30ff]")


def language(text: str) -> Language:
    """zh, en, mixed (of these two) or other. A Chinese character counts as half a word.

    English is what is written in plain Latin letters; text without letters is `other`.
    """
    text = text[:LOOKED_AT]
    if text.isascii():
        return "en" if LATIN.search(text) else "other"
    chinese = sum(map(len, CHINESE.findall(text))) / 2
    words = (WORD if RARE.search(text) else LATIN).findall(text)
    english = sum(word.isascii() for word in words)
    other = len(words) - english
    total = chinese + len(words)
    if not total or other > (1 - MOST) * total or JAPANESE.search(text):
        return "other"
    if chinese >= MOST * total:
        return "zh"
    return "en" if english >= MOST * total else "mixed"
