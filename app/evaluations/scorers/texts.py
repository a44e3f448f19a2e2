"""Texts as scorers compare them: normalised, and cut into words. Chinese is cut by jieba."""

import re
import string
import tempfile
import threading
import unicodedata
from functools import lru_cache
from typing import Any

from app.config import settings

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = set(string.punctuation)
WORDS = re.compile(r"[a-z0-9]+")
LONGEST = 20_000  # characters of an answer that are compared
loading = threading.Lock()


@lru_cache(maxsize=1)
def segmenter() -> Any:
    """jieba, with its dictionary read. It keeps a copy of it as Python objects on disk, which
    nobody else may write: not in /tmp, as it would by itself.
    """
    import jieba

    with loading:
        jieba.setLogLevel("ERROR")
        directory = settings.home / "jieba"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            jieba.dt.tmp_dir = str(directory)
        except OSError:
            jieba.dt.tmp_dir = tempfile.mkdtemp(prefix="danlu-jieba-")
        jieba.initialize()
    return jieba.dt


def is_chinese(text: str) -> bool:
    return CHINESE.search(text) is not None


def segments(text: str) -> list[str]:
    """The words of a text with Chinese in it, without spaces."""
    return [word for word in segmenter().lcut(text, HMM=True) if not word.isspace()]


def words(text: str, *, chinese: bool) -> list[str]:
    """In small letters, without punctuation: as rouge-score has them, Chinese as jieba cuts it."""
    text = text[:LONGEST].lower()
    if not chinese:
        return WORDS.findall(text)
    return [word for word in segments(text) if any(char.isalnum() for char in word)]


def is_punctuation(char: str) -> bool:
    return char in PUNCTUATION or unicodedata.category(char).startswith("P")


def normalised(text: str, *, case: bool = False, punctuation: bool = False) -> str:
    """Compatible forms (full-width letters) made one, spaces at the ends and doubled ones gone.
    Letters of both cases are the same, unless `case`; marks are gone, unless `punctuation`.
    """
    text = unicodedata.normalize("NFKC", text[:LONGEST])
    if not case:
        text = text.casefold()
    if not punctuation:
        text = "".join(char for char in text if not is_punctuation(char))
    return " ".join(text.split())


def answer_words(text: str, *, chinese: bool) -> list[str]:
    """As SQuAD compares short answers: without case, marks and English articles."""
    text = normalised(text)
    return segments(text) if chinese else ARTICLES.sub(" ", text).split()
