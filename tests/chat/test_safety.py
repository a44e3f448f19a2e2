"""Answers are hostile: what a browser makes of them. And long histories stay quick."""

import time

import pytest
from playwright.sync_api import expect

from tests.chat.talks import answer, ask, said
from tests.dashboard.test_manners import (  # noqa: F401 - fixtures
    address,
    admin,
    browser,
    page,
)
from tests.jobs.people import principal

pytestmark = pytest.mark.slow

HOSTILE = """\
# Title
<script>window.pwned = 1</script>
<img src=x onerror="window.pwned = 1">
<svg onload="window.pwned = 1"><style>* { display: none }</style></svg>
<style>body { display: none }</style>
<iframe srcdoc="<script>parent.pwned = 1</script>"></iframe>
<form action="/logout" method="post"><button data-theme-toggle>press</button></form>
<a href="javascript:window.pwned=1" class="dialog" data-open="rename-dialog" onclick="window.pwned=1">raw</a>

[script](javascript:window.pwned=1) [data](data:text/html,<script>1</script>) [good](https://example.com/)
![picture](https://example.com/tracker.png)

| a | b |
|---|:-:|
| 1 | <b onmouseover="window.pwned = 1">2</b> |

```python onload=alert(1)
print("<script>window.pwned = 1</script>")
```
"""
WIDE = "|" + "a|" * 5000 + "\n|" + "-|" * 5000 + "\n" + "|x\n" * 5000
DEEP = ">" * 50_000 + " x"


@pytest.fixture
def who(db, admin):  # noqa: F811
    return principal(db, admin.workspace)


def test_a_hostile_answer_does_nothing(db, page, who):  # noqa: F811
    talk, _ = said(db, who, (HOSTILE, HOSTILE), ("wide", WIDE), ("deep", DEEP))
    db.commit()
    began = time.monotonic()
    page.goto(f"/chat/{talk.id}")
    expect(page.locator(".chat-message")).to_have_count(6, timeout=15_000)
    assert time.monotonic() - began < 15
    log = page.locator(".chat-log")
    for tag in ("script", "img", "svg:not(.icon)", "style", "iframe", "form", "b", "input"):
        assert log.locator(f".chat-text {tag}").count() == 0, tag
    texts = log.locator(".chat-text")
    expect(texts.nth(1).locator("h1")).to_have_text("Title")
    expect(texts.nth(1)).to_contain_text("<img src=x onerror=")  # shown, not obeyed
    links = texts.nth(1).locator("a")
    assert [one.get_attribute("href") for one in links.all()] == [
        None, None, "https://example.com/", "https://example.com/tracker.png",
    ]  # fmt: skip
    assert links.last.get_attribute("rel") == "noopener noreferrer nofollow"
    assert (
        page.evaluate(
            "[...document.querySelectorAll('.chat-text *')].flatMap(e => [...e.attributes])"
            ".filter(a => /^(on|style|hx-|data-(open|theme))/.test(a.name)).length"
        )
        == 0
    )
    assert (
        log.locator(".chat-text table td").nth(1).inner_text()
        == '<b onmouseover="window.pwned = 1">2</b>'
    )
    code = texts.nth(1).locator("code[data-lang=python]")
    expect(code.locator(".hljs-built_in")).to_have_text("print")
    texts.nth(1).locator(".chat-code [data-copy]").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == 'print("<script>window.pwned = 1</script>")\n'
    assert page.evaluate("window.pwned") is None
    assert log.locator("td").count() < 20  # a table of 25 million cells is shown as its text


def test_long_histories_come_as_they_are_scrolled_to(db, page, who):  # noqa: F811
    talk, _ = said(db, who, *((f"question {n}", f"answer **{n}**\n\n" * 5) for n in range(60)))
    db.commit()
    page.goto(f"/chat/{talk.id}")
    expect(page.locator(".chat-message")).to_have_count(30)
    expect(page.locator(".chat-message").last).to_be_in_viewport()
    for count in (60, 90, 120):
        page.locator(".chat-log").hover()
        page.mouse.wheel(0, -100_000)
        expect(page.locator(".chat-message")).to_have_count(count)
    expect(page.locator(".chat-message").first).to_contain_text("question 0")


def test_branches_thoughts_and_ratings_of_stored_answers(db, page, who):  # noqa: F811
    talk, asked = ask(db, who, "q")
    answer(db, talk, asked[0][1], "first")
    answer(db, talk, asked[0][1], "second", reasoning="hm, <b>hm</b>")
    db.commit()
    page.goto(f"/chat/{talk.id}")
    last = page.locator(".chat-message").last
    expect(last.locator("[data-place]")).to_have_text("2/2")
    expect(last.locator(".chat-thought-text")).to_be_hidden()
    last.locator(".chat-thought summary").click()
    expect(last.locator(".chat-thought-text")).to_have_text("hm, <b>hm</b>")
    last.locator("[data-act=up]").click()
    expect(last.locator("[data-act=up]")).to_have_attribute("aria-pressed", "true")
    last.locator("[data-act=correct]").click()
    page.get_by_test_id("chat-editor").fill("**better**")
    page.get_by_test_id("chat-editor-save").click()
    expect(last.locator(".chat-correction strong").last).to_have_text("better")
    last.locator("[data-act=previous]").click()
    expect(page.locator(".chat-message").last.locator(".chat-text")).to_have_text("first")
    page.reload()
    expect(page.locator(".chat-message").last.locator(".chat-text")).to_have_text("first")
    page.locator(".chat-message").last.locator("[data-act=next]").click()
    last = page.locator(".chat-message").last
    expect(last.locator("[data-act=up]")).to_have_attribute("aria-pressed", "true")
    last.locator("[data-act=code]").click()
    expect(page.get_by_test_id("chat-code")).to_contain_text("curl")
    page.get_by_role("button", name="Python").click()
    expect(page.get_by_test_id("chat-code")).to_contain_text("client.chat.completions.create")


def test_find_rename_share(db, page, who):  # noqa: F811
    said(db, who, ("别的话题", "没有"))
    talk, _ = said(db, who, ("部署", "需要两张显卡"))
    db.commit()
    page.goto(f"/chat/{talk.id}")
    page.get_by_test_id("chat-search").fill("显卡")
    expect(page.locator("#conversations a")).to_have_count(1)
    expect(page.locator("#conversations")).to_contain_text("需要两张显卡")
    page.get_by_test_id("chat-rename").click()
    page.get_by_test_id("rename-title").fill("GPU")
    page.get_by_test_id("rename-save").click()
    expect(page.get_by_test_id("chat-title")).to_have_text("GPU")
    page.get_by_test_id("chat-share").click()
    page.get_by_test_id("share").check()
    expect(page.get_by_test_id("share-address")).to_have_value(page.url)
