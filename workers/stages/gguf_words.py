"""A tokenizer as llama.cpp wants it: tokens, their kinds, merges, and how text is split first.

Byte-level BPE only, as Llama 3, Qwen and our starter model have it. llama.cpp knows how to split
text by name, not by pattern, so the name is found by trying: the tokenizer of the model and one
that splits as llama.cpp does are given the same texts.
"""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from app.errors import N_
from workers.stages import models
from workers.stages.gguf_weights import unsupported
from workers.stages.run import Run

WORD = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+END|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*END"
    r"|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names, and the patterns that they stand for in src/llama-vocab.cpp, one after another
SPLITS: dict[str, tuple[str, ...]] = {
    "qwen2": (rf"{WORD}|{LETTERS}|\p{{N}}|{REST}",),
    "llama-bpe": (rf"{WORD}|{LETTERS}|\p{{N}}{{1,3}}|{REST}",),
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "gpt-4o": (CASED.replace("END", f"{WORD}?").replace("NUMBERS", r"\p{N}{1,3}"),),
    "tekken": (CASED.replace("END", "").replace("NUMBERS", r"\p{N}"),),
}
WHOLE_WORDS = {"llama-bpe", "tekken"}  # names that also mean `ignore_merges`
PROBES = (
    "Hello, world! It's 3.14 o'clock; they'll pay $1,234,567.89 (about 10%).",
    "今天天气很好，我们去公园散步吧。这家店的面条很好吃，服务也不错！",
    "混合 text 和 English，数字123与4567890，标点……“引号”、《书名》：OK？",
    "def f(x):\n    return [i ** 2 for i in range(x)]  # comment\n\n\n",
    "  leading, trailing  \n\tTabs\tand\r\nnew lines \n \n",
    "https://example.com/a_b?c=1&d=%20#e user@example.org C:\\path\\to",
    "ÀÉîõü ñandú Straße Ελληνικά русский العربية हिन्दी 한국어 ひらがな カタカナ",
    "😀👍🏽 ∑∫√≤≥ ①②③ ½ ² ™ “”‘’—–…",
    "I'M SHOUTING Don't CamelCaseWord snake_case XMLHttpRequest2",
    "这个产品太差了,再也不买了!!! 评分: 1/5",
    '{"name": "value", "list": [1, 2, 3], "null": null}',
    "1. first\n2. second\n\n- item\n* item\n> quote\n```\ncode\n```",
)
MOST = 0.5  # of the probes may be split otherwise


def describe(run: Run, writer: Any, words: Path, stops: list[int], size: int) -> None:
    """Write the keys of the tokenizer in `words` for a model with `size` embeddings.

    Raises StageError for one that llama.cpp has no match for.
    """
    import gguf

    whole = models.read(words / "tokenizer.json")
    bpe = whole["model"]
    if bpe.get("type") != "BPE" or bpe.get("byte_fallback") or "ByteLevel" not in str(
        whole.get("pre_tokenizer")
    ):  # fmt: skip
        raise unsupported("its tokenizer is no byte-level BPE")
    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    added = {one["id"]: one for one in whole.get("added_tokens", [])}
    names = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(names) >= size:
        raise unsupported("its tokenizer has more tokens than the model")
    tokens, kinds = [], []
    for place in range(size):
        token = added.get(place)
        tokens.append(names.get(place, f"[PAD{place}]"))
        kind = gguf.TokenType.NORMAL if place in names else gguf.TokenType.UNUSED
        if token:
            kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        kinds.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(run, tokenizer, whole))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge(one) for one in bpe["merges"]])
    config = models.read(words / "tokenizer_config.json")
    special = {name: number for number, name in names.items()}
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        number = special.get(text_of(config.get(f"{name}_token")))
        if number is not None:
            add(number)
    ends = [stop for stop in stops if stop < size]
    if not ends and text_of(config.get("eos_token")) in special:
        ends = [special[text_of(config["eos_token"])]]
    if ends:
        writer.add_eos_token_id(ends[0])
    if len(ends) > 1:  # llama.cpp ends at either
        writer.add_eot_token_id(ends[1])
    begins = opens_with(tokenizer, special.get(text_of(config.get("bos_token"))))
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)


def merge(pair: Any) -> str:
    """`a b`; a space inside a part is the sign that llama.cpp reads as one."""
    if isinstance(pair, str):
        return pair
    return " ".join(part.replace(" ", "Ġ") for part in pair)


def text_of(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def opens_with(tokenizer: Tokenizer, bos: int | None) -> bool:
    ids = tokenizer.encode("a").ids
    return bool(ids) and ids[0] == bos


def texts(words: Path, ids: list[int]) -> list[str]:
    """The tokens with these numbers, as text."""
    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    return [token for number in ids if (token := tokenizer.id_to_token(number)) is not None]


def begins(words: Path) -> str:
    """The token that is put before every text, if there is one."""
    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    bos = text_of(models.read(words / "tokenizer_config.json").get("bos_token"))
    return bos if bos and opens_with(tokenizer, tokenizer.token_to_id(bos)) else ""


def split_name(run: Run, tokenizer: Tokenizer, whole: dict[str, Any]) -> str:
    """The name under which llama.cpp splits text as this tokenizer does, or most nearly."""
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in PROBES]
    other = Tokenizer.from_str(tokenizer.to_str())
    best, fewest = "", len(PROBES) + 1
    for name, patterns in SPLITS.items():
        if (name in WHOLE_WORDS) != bool(whole["model"].get("ignore_merges")):
            continue
        other.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        found = [other.encode(text, add_special_tokens=False).ids for text in PROBES]
        differ = sum(a != b for a, b in zip(expected, found, strict=True))
        if differ < fewest:
            best, fewest = name, differ
    if fewest > MOST * len(PROBES):
        raise unsupported("llama.cpp knows no way to split text as its tokenizer does")
    if fewest:
        run.event(
            "warning",
            N_(
                "llama.cpp splits text a little differently than this tokenizer: %(count)s of"
                " %(all)s sample texts become other tokens there (%(name)s)."
            ),
            count=fewest,
            all=len(PROBES),
            name=best,
        )
    return best
