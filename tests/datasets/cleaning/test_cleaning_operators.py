"""Each operator on texts that it changes, on texts that it must leave, and on hostile ones."""

import time

import pytest

from app.datasets.cleaning import duplicates, edits, filters, privacy
from app.datasets.cleaning.duplicates import Index
from app.datasets.cleaning.filters import repeated
from app.datasets.cleaning.operators import OPERATORS, TABLE
from app.datasets.cleaning.passages import Passage, rewrite, texts, words
from app.datasets.cleaning.pipeline import Pipeline, Runner, Step, check
from app.datasets.rows import personal

QIANFAN = (
    "remove_emoji remove_invisible_character replace_uniform_whitespace"
    " remove_non_meaning_characters replace_traditional_chinese_to_simplified"
    " remove_web_identifiers check_number_words check_word_repetition_removal"
    " check_character_repetition_removal check_special_characters check_flagged_words"
    " check_lang_id check_perplexity deduplication_simhash replace_emails replace_ip"
    " replace_identifier"
)
CUTOFFS = {  # parameter: (Chinese, English)
    "check_number_words.min": (1, 20),
    "check_number_words.max": (1_000_000, 100_000),
    "check_word_repetition_removal.n": (5, 5),
    "check_word_repetition_removal.max": (0.96, 0.19),
    "check_character_repetition_removal.n": (3, 10),
    "check_character_repetition_removal.max": (0.20, 0.106),
    "check_special_characters.max": (0.30, 0.40),
    "check_flagged_words.max": (0.001, 0.01),
    "check_stopwords.min": (0.1691, 0.30),
    "check_short_sentences.max": (0.6, 0.6),
    "deduplication_simhash.distance": (None, None),
    "check_lang_id.min": (None, None),
    "check_perplexity.max": (None, None),
}


def chat(*contents: str) -> dict:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]
    return {"id": "dv_1.1", "messages": turns}


def test_the_seventeen_operators_are_here_with_their_cutoffs() -> None:
    names = QIANFAN.split()
    assert len(names) == 17
    assert set(names) <= OPERATORS.keys()
    for name, cutoffs in CUTOFFS.items():
        operator, _, parameter = name.partition(".")
        found = next(one for one in OPERATORS[operator].parameters if one.name == parameter)
        assert (found.zh, found.en) == cutoffs
        assert found.required == (cutoffs == (None, None))


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("remove_invisible_character", "a\u200bb\x07\ufeff\u202ec\n\t", "abc\n\t"),
        ("remove_invisible_character", "می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
        ("replace_uniform_whitespace", "a\u3000b\xa0c\r\nd\u2028e", "a b c\nd\ne"),
        ("replace_uniform_whitespace", "def f():\n    pass", "def f():\n    pass"),
        ("remove_non_meaning_characters", "好\ufffd\ue000的锟斤拷锟斤拷！", "好的！"),
        ("remove_non_meaning_characters", "烫烫烫烫烫 水很烫", " 水很烫"),
        ("remove_emoji", "好😀👍🏽👩‍💻🇨🇳1️⃣❤️ok ©2024 #1", "好ok ©2024 #1"),
        ("replace_traditional_chinese_to_simplified", "乾淨的頭髮，乾坤", "干净的头发，乾坤"),
        ("remove_web_identifiers", "<p>一</p><p>二&amp;三</p>", "一\n\n二&三"),
        ("remove_web_identifiers", "a<br/>b<!-- x --><script>evil()</script>c", "a\nbc"),
        (
            "remove_web_identifiers",
            "<think>a < b && c > d</think>",
            "<think>a < b && c > d</think>",
        ),
        ("remove_web_identifiers", "```\n<p>x</p>\n```\n<b>y</b>", "```\n<p>x</p>\n```\ny"),
        ("remove_web_identifiers", "List<String> x `<div>`", "List<String> x `<div>`"),
        ("replace_emails", "写信给 li.lei@example.com。", "写信给 <EMAIL>。"),
        ("replace_phones", "电话13812345678，或 +86 138-1234-5678", "电话<PHONE>，或 <PHONE>"),
        ("replace_identifier", "身份证11010519491231002X", "身份证<ID_CARD>"),
        ("replace_identifier", "号码110105194912310021", "号码110105194912310021"),
        ("replace_bank_cards", "卡 4111 1111 1111 1111 ok", "卡 <BANK_CARD> ok"),
        ("replace_bank_cards", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("replace_ip", "10.1.2.3:80 127.0.0.1 2001:db8::8a2e:370:7334", "<IP>:80 127.0.0.1 <IP>"),
    ],
)
def test_edits(operator: str, before: str, after: str) -> None:
    edit = OPERATORS[operator].edit
    assert edit
    assert edit(before) == after
    assert edit(after) == after


def test_personal_data_is_found_without_overlaps() -> None:
    text = "张三 11010519491231002X 6222021234567890128 a@b.cn 1.2.3.4.5 1697012345678 12:30:45"
    assert [(kind, text[a:b]) for kind, a, b in personal.find(text)] == [
        ("id_card", "11010519491231002X"),
        ("bank_card", "6222021234567890128"),
        ("email", "a@b.cn"),
    ]


# -- filters -----------------------------------------------------------------------------


def test_ratio_is_of_ngrams_that_occur_more_than_once() -> None:
    assert repeated(["a", "b", "a", "c"]) == 0.5
    assert repeated([]) == 0
    assert words("Don't 你好 abc汉字") == ["don't", "你", "好", "abc", "汉", "字"]


@pytest.mark.parametrize(
    ("operator", "params", "dropped", "kept"),
    [
        ("check_number_words", {}, "Too short to learn from.", "很短"),
        ("check_number_words", {"max": 3}, "一二三四", "一二三"),
        (
            "check_character_repetition_removal",
            {},
            "哈哈哈哈哈哈哈哈",
            "今天天气很好，我们去公园。",
        ),
        ("check_word_repetition_removal", {}, "the same five words here " * 5, "a b c d e f g h"),
        ("check_special_characters", {}, "好！！！@@@", "好的，没问题。"),
        ("check_flagged_words", {"words": ["casino game", "赌博"]}, "one Casino game", "a casino"),
        ("check_flagged_words", {"words": ["赌博"]}, "网上赌博", "网上博弈"),
        ("check_stopwords", {}, "laptop cheap price sale", "this is what we have to do"),
        ("check_short_sentences", {}, "好。是。对。嗯。", "今天的天气非常好。好。"),
        (
            "check_lang_id",
            {"languages": ["zh", "en"], "min": 0.5},
            "Bonjour, comment allez-vous ?",
            "今天天气很好，我们去公园散步吧",
        ),
    ],
)
def test_filters(operator: str, params: dict, dropped: str, kept: str) -> None:
    step = Step(operator=operator, params=params)
    runner = Runner(check(Pipeline(steps=[step])), Index())
    assert runner.apply(0, {"text": dropped}).why
    assert runner.apply(1, {"text": kept}).why is None


def test_a_vowel_sign_is_no_special_character() -> None:
    assert filters.check_special_characters(Passage("नमस्ते दुनिया कैसे हो"), {"max": 0.3}) is None


def test_perplexity_is_asked_of_a_model_and_skipped_without() -> None:
    step = Step(operator="check_perplexity", params={"model": "m", "max": 50})
    pipeline = check(Pipeline(steps=[step]))
    assert Runner(pipeline, Index(), score=lambda _: 51.0).apply(0, {"text": "x"}).dropped == 0
    assert Runner(pipeline, Index(), score=lambda _: 49.0).apply(0, {"text": "x"}).dropped is None
    assert Runner(pipeline, Index()).apply(0, {"text": "x"}).dropped is None


# -- texts of a row ----------------------------------------------------------------------


def test_every_kind_of_row_has_its_texts() -> None:
    preference = {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "chosen": {"role": "assistant", "content": "c", "reasoning_content": "r"},
        "rejected": {"role": "assistant", "content": "x"},
    }
    sides = {
        side: [holder[key] for holder, key in texts(preference, side)]
        for side in ("all", "input", "output")
    }
    assert sides == {
        "all": ["s", "u", "r", "c", "x"],
        "input": ["s", "u"],
        "output": ["r", "c", "x"],
    }
    assert [holder[key] for holder, key in texts({"text": "t"})] == ["t"]
    assert list(texts({"text": "t"}, "input")) == []


def test_masks_reach_what_tools_are_called_with_and_keep_it_json() -> None:
    arguments = '{"phone":13812345678,"to":["a@b.cn"],"n":5}'
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert rewrite(row, privacy.replace_phones, calls=True) == (True, False)
    assert call["function"]["arguments"] == '{"phone":"<PHONE>","to":["a@b.cn"],"n":5}'


def test_a_row_that_an_edit_leaves_empty_is_dropped() -> None:
    runner = Runner(check(Pipeline(steps=[Step(operator="remove_emoji")])), Index())
    assert runner.apply(0, chat("你好", "😀")).dropped == 0
    row = chat("你好😀", "好")
    assert runner.apply(1, row).changed == [0]
    assert row == chat("你好", "好")


# -- duplicates --------------------------------------------------------------------------

LONG = (
    "模型训练需要大量高质量的数据，数据清洗可以去掉重复、乱码和隐私信息，从而让模型学得更好更快。"
    * 3
)


def test_of_exact_duplicates_the_first_stays() -> None:
    index = Index()
    rows = [chat("一", "二"), chat("一", "三"), chat("一", "二") | {"id": "other"}]
    assert [duplicates.same(row, index, 0, at) for at, row in enumerate(rows)] == [None, None, 0]


@pytest.mark.parametrize("operator", ["deduplication_simhash", "deduplication_minhash"])
def test_near_duplicates(operator: str) -> None:
    params = {"distance": 6} if operator == "deduplication_simhash" else {"threshold": 0.8}
    runner = Runner(check(Pipeline(steps=[Step(operator=operator, params=params)])), Index())
    assert runner.apply(0, {"text": LONG}).dropped is None
    assert runner.apply(1, {"text": "完全不同的一句话，讲的是昨天晚上吃了什么。"}).dropped is None
    twin = runner.apply(2, {"text": LONG + "好"})
    assert twin.why == {"message": "nearly the same as row %(row)s", "params": {"row": 1}}


@pytest.mark.parametrize("distance", range(7))
def test_hashes_within_the_distance_share_a_key(distance: int) -> None:
    masks = duplicates.blocks(distance)
    for start in range(0, 64 - 8 * distance or 1, 3):
        flipped = sum(1 << (start + 8 * at) % 64 for at in range(distance))
        assert any(flipped & mask == 0 for mask in masks)


def test_the_same_stretch_twice_gives_the_same(tmp_path) -> None:
    pipeline = check(Pipeline(steps=[Step(operator="deduplication_exact")]))
    for _ in range(2):
        index = Index(tmp_path / "a.sqlite")
        runner = Runner(pipeline, index)
        assert [runner.apply(at, chat("x")).dropped for at in range(2)] == [None, 0]
        index.commit(2)
        index.close()


def test_a_damaged_index_is_begun_anew(tmp_path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database at all" * 100)
    index = Index(path)
    assert index.rows == 0


# -- hostile text ------------------------------------------------------------------------

HOSTILE = [
    "a" * 200_000,
    "<" * 200_000,
    "<!--" * 50_000,
    "<script>" * 30_000,
    "<p " * 60_000,
    "`" * 200_000,
    "```\n" * 50_000,
    "&" * 100_000 + "&amp" * 20_000,
    "a@" * 100_000,
    "1 " * 100_000,
    "6222 " * 40_000,
    "1:" * 100_000,
    "\u200d" * 200_000,
    "锟斤拷" * 60_000,
    "烫" * 200_000,
    "'a" * 100_000,
    "。" * 200_000,
    "\n \n" * 60_000,
    "😀\u200d" * 60_000,
]


@pytest.mark.parametrize("at", range(len(HOSTILE)))
def test_hostile_text_takes_no_longer_than_honest_text(at: int) -> None:
    given = {
        "check_flagged_words": {"words": ["a a a", "锟 斤"]},
        "check_lang_id": {"languages": ["zh"], "min": 0.5},
        "deduplication_simhash": {"distance": 6},
    }
    for one in TABLE:
        if one.name == "check_perplexity":
            continue
        pipeline = check(Pipeline(steps=[Step(operator=one.name, params=given.get(one.name, {}))]))
        start = time.process_time()
        Runner(pipeline, Index()).apply(0, {"text": HOSTILE[at]})
        assert time.process_time() - start < 2, one.name


def test_nothing_an_entity_says_becomes_a_control_character() -> None:
    assert edits.unescaped("&#0;") in ("&#0;", "\ufffd")
    assert edits.unescaped("&#7;") in ("&#7;", "")
    assert edits.unescaped("&nbsp;") == " "
