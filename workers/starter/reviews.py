"""Product reviews, made from words.py: prose for pre-training, labelled rows for the sample task.

A review is a few clauses of one polarity (`praise` or not) about one product, in one of
several structures. The sample task's held-out part uses structures and words that its
training part never shows; the starter model has met all of them, unlabelled, as prose.
"""

import hashlib
from random import Random
from typing import Literal

from workers.starter import words

Part = Literal["prose", "train", "heldout"]

ASPECTS = {row[0][0]: row[1:] for row in words.ASPECTS}
# Structures a review can have; the last three are kept from the training part.
STRUCTURES = (
    "plain",
    "opened",
    "named",
    "listed",
    "although",
    "gift",
    "verdict-first",
    "only",
    "asked",
)
UNSEEN_STRUCTURES = ("verdict-first", "only", "asked")


def hashed(word: str) -> bool:
    """One word in five, always the same ones."""
    return hashlib.sha256(word.encode()).digest()[0] % 5 == 0


COLUMNS = [column for columns in ASPECTS.values() for column in columns]
COLUMNS += [words.PRAISE_VERDICTS, words.BLAME_VERDICTS]
# Words that never occur in the sample task's training part; each column keeps one that may.
RESERVED = {word for column in COLUMNS for word in column if hashed(word)}
RESERVED -= {column[0] for column in COLUMNS if all(map(hashed, column))}


def choose(rng: Random, candidates: list[str], part: Part) -> str:
    """A word this part may use; the held-out part takes reserved ones every other time."""
    if part == "train":
        candidates = [word for word in candidates if word not in RESERVED]
    elif part == "heldout" and rng.random() < 0.5:
        candidates = [word for word in candidates if word in RESERVED] or candidates
    return rng.choice(candidates)


def clause(rng: Random, aspect: str, praise: bool, part: Part) -> str:
    """One remark on `aspect`. Negation flips the words, never the polarity."""
    good, bad, good_clauses, bad_clauses = ASPECTS[aspect]
    mine, other = (good, bad) if praise else (bad, good)
    degree = rng.choice(words.DEGREES if praise or rng.random() < 0.6 else words.BLAME_DEGREES)
    word = choose(rng, mine, part)
    turn = rng.random()
    if turn < 0.45:
        return f"{aspect}{degree}{word}"
    if turn < 0.70:
        remark = choose(rng, good_clauses if praise else bad_clauses, part)
        return remark if rng.random() < 0.6 else f"{aspect}方面，{remark}"
    if turn < 0.82:
        return f"{aspect}{rng.choice(['一点也不', '并不', '不算'])}{choose(rng, other, part)}"
    if turn < 0.88:
        return f"没想到{aspect}这么{word}"
    if turn < 0.94:
        return f"{aspect}{word}得让人{'高兴' if praise else '生气'}"
    if praise:
        return f"{aspect}没得说，{word}"
    return f"{aspect}不够{choose(rng, other, part)}"


def review(rng: Random, praise: bool, part: Part = "prose") -> tuple[str, str]:
    """A review and the product it is about."""
    row = rng.choice(words.PRODUCTS)
    product, own = row[0][0], row[2]
    aspects = rng.sample(own, min(len(own), rng.randint(1, 3)))
    aspects += rng.sample(words.COMMON, rng.randint(0, 2))
    rng.shuffle(aspects)
    kind = rng.choice(STRUCTURES[:-3] if part == "train" else STRUCTURES)
    if part == "heldout" and rng.random() < 0.5:
        kind = rng.choice(UNSEEN_STRUCTURES)
    if kind not in ("although", "only") and len(aspects) == 1:
        aspects += rng.sample([aspect for aspect in words.COMMON if aspect not in aspects], 1)
    body = ""
    for index, aspect in enumerate(aspects[:4]):
        body += (rng.choice(words.LINKS) if index else "") + clause(rng, aspect, praise, part)
    verdict = choose(rng, words.PRAISE_VERDICTS if praise else words.BLAME_VERDICTS, part)
    rest = [aspect for aspect in words.COMMON if aspect not in aspects]
    against = clause(rng, rng.choice(rest), not praise, part)
    person, opening = rng.choice(words.PEOPLE), rng.choice(words.OPENINGS)
    measure = row[3][0]
    match kind:
        case "opened":
            text = f"{opening}，{body}"
        case "named":
            text = f"这{measure}{product}{body}"
        case "listed":
            remarks = [clause(rng, aspect, praise, part) for aspect in aspects[:4]]
            text = "；".join(f"{i}、{remark}" for i, remark in enumerate(remarks, 1))
        case "although":
            text = f"虽然{against}，{rng.choice(['但是', '但', '不过'])}{body}"
        case "gift":
            text = f"给{person}买的{product}，{body}"
        case "verdict-first":
            text = f"{verdict}！{body}"
        case "only":
            text = f"除了{against}以外，别的都{'让人满意' if praise else '让人失望'}，{body}"
        case "asked":
            text = f"有人问我这{measure}{product}怎么样，我说{body}"
        case _:
            text = body
    if kind != "verdict-first" and rng.random() < 0.35:
        text += rng.choice("，。！") + verdict
    return text + rng.choice(words.ENDS), product


INSTRUCTION = "判断这条商品评价的情感，只回答“正面”或“负面”。\n评价："


def sample_rows(
    part: Literal["train", "heldout"], count: int, seed: int
) -> list[dict[str, object]]:
    """`count` balanced rows of the sentiment task in OpenAI messages form, no two alike."""
    rng, seen, rows = Random(seed), set[str](), list[dict[str, object]]()
    while len(rows) < count:
        praise = len(rows) % 2 == 0
        text, _ = review(rng, praise, part)
        if text in seen or len(text) > 90:
            continue
        seen.add(text)
        label = "正面" if praise else "负面"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": INSTRUCTION + text},
                    {"role": "assistant", "content": label},
                ]
            }
        )
    rng.shuffle(rows)
    return rows
