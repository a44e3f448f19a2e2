"""The chat in a real browser, with a real engine: told in order, each goes on from the last."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def page(stack: Stack, served: str) -> Iterator[Page]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path="/usr/bin/chromium") as browser,
    ):
        context = browser.new_context(base_url=stack.url, locale="en-US")
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(20_000)
        wrong: list[str] = []
        page.on("console", lambda one: wrong.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto("/login?next=/chat")
        page.get_by_test_id("email").fill(stack.email)
        page.get_by_test_id("password").fill(stack.password)
        page.get_by_test_id("sign-in").click()
        page.wait_for_url("**/chat")
        yield page
        context.close()
        assert wrong == []


def messages(page: Page, role: str = "assistant", column: int = 0):
    return page.locator(".chat-column").nth(column).locator(f".chat-message[data-role={role}]")


# Escape with the first words: the starter says all it has to say in a quarter of a second.
PRESS = """() => {
  const look = new MutationObserver(() => {
    const texts = document.querySelectorAll(".chat-message[data-role=assistant] .chat-text")
    const now = texts[texts.length - 1]
    if (!now || !now.textContent || !document.querySelector("[data-testid=chat-stop]")) return
    if (document.querySelector("[data-testid=chat-stop]").hidden) return
    look.disconnect()
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }))
  })
  look.observe(document.body, { subtree: true, childList: true, characterData: true })
}"""


def say(page: Page, content: str) -> None:
    page.get_by_test_id("chat-input").fill(content)
    page.get_by_test_id("chat-input").press("Enter")


def done(page: Page) -> None:
    expect(page.get_by_test_id("chat-send")).to_be_visible(timeout=60_000)


def test_an_answer_streams_with_its_figures(page: Page, served: str) -> None:
    page.goto(f"/chat?model={served}")
    page.get_by_test_id("chat-settings").click()
    page.locator("#max_tokens").fill("24")
    say(page, "你好")
    page.wait_for_url("**/chat/cnv_*")
    done(page)
    expect(messages(page)).to_have_count(1)
    expect(messages(page).locator(".chat-facts")).to_contain_text(re.compile(r"\d+ \+ \d+ tokens"))
    assert messages(page).locator(".chat-text").inner_text().strip()
    expect(page.get_by_test_id("chat-input")).to_be_focused()
    expect(page.locator("#chat-said")).to_have_text("The answer is complete.")


def test_stop_with_escape_keeps_what_was_said(page: Page) -> None:
    page.locator("#max_tokens").fill("1500")
    page.locator("#temperature").fill("2")
    page.locator("#repetition_penalty").fill("2")  # the prompt has the stop token: it finds no end
    page.evaluate(PRESS)
    say(page, "讲一个很长的故事")
    facts = messages(page).last.locator(".chat-facts")
    for _ in range(8):  # a browser that has to wait for its turn may draw the first words last
        done(page)
        expect(messages(page)).to_have_count(2)
        expect(facts).to_contain_text(re.compile("tokens|Stopped"))
        page.reload()
        expect(facts).to_contain_text(re.compile("tokens|Stopped"))  # what is stored
        if "Stopped before the end" in facts.inner_text():
            break
        page.evaluate(PRESS)
        messages(page).last.locator("[data-act=again]").click()
    expect(facts).to_contain_text("Stopped before the end")


def test_regenerate_edit_and_walk_the_branches(page: Page) -> None:
    page.get_by_test_id("chat-settings").click()
    expect(page.locator("#max_tokens")).to_have_value("1500")  # kept with the conversation
    page.locator("#max_tokens").fill("16")
    place = messages(page).last.locator("[data-place]")
    told = int(place.inner_text().split("/")[1])
    messages(page).last.locator("[data-act=again]").click()
    expect(place).to_have_text(f"{told + 1}/{told + 1}", timeout=30_000)
    done(page)
    page.get_by_test_id("chat-input").press("ArrowUp")
    expect(page.get_by_test_id("chat-editor")).to_have_value("讲一个很长的故事")
    page.get_by_test_id("chat-editor").fill("讲一个短故事")
    page.get_by_test_id("chat-editor").press("Enter")
    expect(messages(page, "user").last.locator("[data-place]")).to_have_text("2/2")
    done(page)
    messages(page, "user").last.locator("[data-act=previous]").click()
    expect(messages(page, "user").last.locator(".chat-text")).to_have_text("讲一个很长的故事")
    expect(place).to_have_text(f"{told + 1}/{told + 1}")


def test_two_columns_answer_one_prompt_and_the_better_is_chosen(page: Page, served: str) -> None:
    page.goto(f"/chat?models={served},{served}")
    expect(page.locator(".chat-column")).to_have_count(2)
    page.get_by_test_id("chat-settings").click()
    page.locator("#max_tokens").fill("16")
    page.locator("#temperature").fill("1.5")
    page.locator("#system").fill("你是一个助手。")
    say(page, "你是谁？")
    done(page)
    for column in range(2):
        expect(messages(page, "user", column)).to_have_count(1)
        expect(messages(page, column=column).locator(".chat-facts")).to_contain_text("tokens")
    best = messages(page, column=1).locator("[data-act=best]")
    best.click()
    expect(best).to_have_attribute("aria-pressed", "true")
    messages(page, column=0).locator("[data-act=again]").click()
    done(page)
    expect(messages(page).locator("[data-place]")).to_have_text("2/2")
    page.reload()
    expect(page.locator(".chat-column")).to_have_count(2)
    expect(messages(page, column=1).locator("[data-act=best]")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_rate_correct_and_make_a_dataset(page: Page) -> None:
    one = messages(page, column=0)
    one.locator("[data-act=down]").click()
    expect(one.locator("[data-act=down]")).to_have_attribute("aria-pressed", "true")
    one.locator("[data-act=correct]").click()
    page.get_by_test_id("chat-editor").fill("我是丹炉的助手。")
    page.get_by_test_id("chat-editor-save").click()
    expect(one.locator(".chat-correction")).to_contain_text("丹炉")
    page.get_by_test_id("chat-feedback").click()
    expect(page.get_by_test_id("rated")).to_have_count(2)
    page.get_by_test_id("rated-pick").first.check()
    expect(page.get_by_test_id("rows-sft")).to_have_text("1 rows")
    page.get_by_test_id("kind-preference").check()
    page.get_by_test_id("make-name").fill("From the chat")
    page.get_by_test_id("make-dataset").click()
    page.wait_for_url("**/datasets/ds_*")
    expect(page.locator("main")).to_contain_text("From the chat")
    expect(page.locator("[data-state=draft]").first).to_be_visible()
    expect(page.locator("main")).to_contain_text("我是丹炉的助手。")
