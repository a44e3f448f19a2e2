"""The table of operators: what each is called, does, takes and changes.

The first seventeen that have the names of Qianfan's have its cutoffs too, for Chinese and English.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from app.datasets.cleaning import edits, filters, privacy
from app.datasets.cleaning.filters import Params, Why
from app.datasets.cleaning.passages import Passage
from app.errors import N_

Group = Literal["abnormal", "filter", "dedup", "privacy"]
GROUPS: dict[Group, str] = {
    "abnormal": N_("Repair"),
    "filter": N_("Filter"),
    "dedup": N_("Duplicates"),
    "privacy": N_("Personal data"),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter has a default for each language, or is required."""

    name: str
    label: str  # msgid
    kind: Literal["int", "number", "words", "languages", "model"]
    low: float = 0
    high: float = 1
    zh: float | None = None
    en: float | None = None
    suggested: str = ""  # what a form offers where nothing is the default

    @property
    def required(self) -> bool:
        return self.zh is None


@dataclass(frozen=True)
class Operator:
    """One of `edit` and `judge` is set; what looks for duplicates or needs a model has neither."""

    name: str
    group: Group
    label: str  # msgid
    what: str  # msgid
    parameters: tuple[Parameter, ...] = ()
    edit: Callable[[str], str] | None = None
    judge: Callable[[Passage, Params], Why | None] | None = None
    chosen: bool = False  # a form offers it as chosen

    @property
    def changes(self) -> Literal["edit", "drop"]:
        return "edit" if self.edit else "drop"


def most(label: str, zh: float, en: float, **more: Any) -> Parameter:
    return Parameter("max", label, "number", zh=zh, en=en, **more)


TABLE = (
    Operator(
        "remove_invisible_character",
        "abnormal",
        N_("Remove invisible characters"),
        N_("Control characters, zero-width and direction marks, and tags that hide text in text."),
        edit=edits.remove_invisible_character,
        chosen=True,
    ),
    Operator(
        "replace_uniform_whitespace",
        "abnormal",
        N_("Normalise white space"),
        N_("Every kind of space becomes U+0020, every kind of line break a newline."),
        edit=edits.replace_uniform_whitespace,
        chosen=True,
    ),
    Operator(
        "remove_non_meaning_characters",
        "abnormal",
        N_("Remove mojibake"),
        N_("Replacement and private-use characters, and leavings of a wrong decoding like 锟斤拷."),
        edit=edits.remove_non_meaning_characters,
        chosen=True,
    ),
    Operator(
        "replace_traditional_chinese_to_simplified",
        "abnormal",
        N_("Traditional to simplified Chinese"),
        N_("Converts by phrase, with OpenCC."),
        edit=edits.replace_traditional_chinese_to_simplified,
    ),
    Operator(
        "remove_web_identifiers",
        "abnormal",
        N_("Strip HTML"),
        N_("Tags, comments, scripts and entities; what stands in Markdown code stays."),
        edit=edits.remove_web_identifiers,
    ),
    Operator(
        "remove_emoji",
        "abnormal",
        N_("Remove emoji"),
        N_("Emoji and flags; signs such as © and ™ stay."),
        edit=edits.remove_emoji,
    ),
    Operator(
        "check_number_words",
        "filter",
        N_("Number of words"),
        N_("A Chinese character counts as a word."),
        (
            Parameter("min", N_("At least"), "int", 0, 1_000_000, zh=1, en=20),
            Parameter("max", N_("At most"), "int", 1, 1_000_000, zh=1_000_000, en=100_000),
        ),
        judge=filters.check_number_words,
    ),
    Operator(
        "check_character_repetition_removal",
        "filter",
        N_("Repeated characters"),
        N_("The share of runs of n characters that occur more than once."),
        (
            Parameter("n", N_("n"), "int", 1, 100, zh=3, en=10),
            most(N_("Share at most"), 0.20, 0.106),
        ),
        judge=filters.check_character_repetition_removal,
    ),
    Operator(
        "check_word_repetition_removal",
        "filter",
        N_("Repeated words"),
        N_("The share of runs of n words that occur more than once."),
        (Parameter("n", N_("n"), "int", 1, 100, zh=5, en=5), most(N_("Share at most"), 0.96, 0.19)),
        judge=filters.check_word_repetition_removal,
    ),
    Operator(
        "check_special_characters",
        "filter",
        N_("Special characters"),
        N_("The share of characters that are no letters: digits, spaces, signs."),
        (most(N_("Share at most"), 0.30, 0.40),),
        judge=filters.check_special_characters,
    ),
    Operator(
        "check_flagged_words",
        "filter",
        N_("Flagged words"),
        N_("The share of words that are on your own list, one word or phrase a line."),
        (
            Parameter("words", N_("Your list"), "words"),
            most(N_("Share at most"), 0.001, 0.01),
        ),
        judge=filters.check_flagged_words,
    ),
    Operator(
        "check_stopwords",
        "filter",
        N_("Stop words"),
        N_("Running text is full of small words such as 的 and “the”; a list of keywords is not."),
        (Parameter("min", N_("Share at least"), "number", zh=0.1691, en=0.30),),
        judge=filters.check_stopwords,
    ),
    Operator(
        "check_short_sentences",
        "filter",
        N_("Short sentences"),
        N_("The share of sentences with fewer than five characters."),
        (most(N_("Share at most"), 0.6, 0.6),),
        judge=filters.check_short_sentences,
    ),
    Operator(
        "check_lang_id",
        "filter",
        N_("Language"),
        N_("Keeps rows that are surely in one of these languages."),
        (
            Parameter("languages", N_("Languages"), "languages", suggested="zh, en"),
            Parameter("min", N_("Sure at least"), "number", suggested="0.5"),
        ),
        judge=filters.check_lang_id,
    ),
    Operator(
        "check_perplexity",
        "filter",
        N_("Perplexity"),
        N_("How surprising a text is to a base model that you pick. Slow; not in the preview."),
        (
            Parameter("model", N_("Base model"), "model"),
            Parameter("max", N_("At most"), "number", 1, 1_000_000, suggested="1000"),
        ),
    ),
    Operator(
        "deduplication_exact",
        "dedup",
        N_("Exact duplicates"),
        N_("Of rows with the same content the first stays."),
        chosen=True,
    ),
    Operator(
        "deduplication_simhash",
        "dedup",
        N_("Near duplicates by simhash"),
        N_("Of rows whose 64-bit simhashes differ in few bits the first stays."),
        (Parameter("distance", N_("Bits at most"), "int", 0, 6, suggested="3"),),
    ),
    Operator(
        "deduplication_minhash",
        "dedup",
        N_("Near duplicates by MinHash"),
        N_("Of rows that share most of their runs of n words the first stays."),
        (
            Parameter("threshold", N_("Share at least"), "number", 0.6, 1, zh=0.8, en=0.8),
            Parameter("n", N_("n"), "int", 1, 20, zh=5, en=5),
        ),
    ),
    Operator(
        "replace_emails",
        "privacy",
        N_("Mask e-mail addresses"),
        N_("Each becomes <EMAIL>."),
        edit=privacy.replace_emails,
        chosen=True,
    ),
    Operator(
        "replace_identifier",
        "privacy",
        N_("Mask identity card numbers"),
        N_("Chinese numbers of 18 characters with the right check digit; each becomes <ID_CARD>."),
        edit=privacy.replace_identifier,
        chosen=True,
    ),
    Operator(
        "replace_bank_cards",
        "privacy",
        N_("Mask bank card numbers"),
        N_("Numbers of known issuers with the right check digit; each becomes <BANK_CARD>."),
        edit=privacy.replace_bank_cards,
        chosen=True,
    ),
    Operator(
        "replace_phones",
        "privacy",
        N_("Mask phone numbers"),
        N_("Chinese mobiles and landlines, and numbers that begin with +; each becomes <PHONE>."),
        edit=privacy.replace_phones,
        chosen=True,
    ),
    Operator(
        "replace_ip",
        "privacy",
        N_("Mask IP addresses"),
        N_("IPv4 and IPv6; each becomes <IP>."),
        edit=privacy.replace_ip,
    ),
)
OPERATORS = {one.name: one for one in TABLE}
