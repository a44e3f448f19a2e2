"""What console.js does, in a real browser: and that nothing needs more than the policy allows."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from sqlalchemy.orm import Session

from app.accounts.tables import User, Workspace
from app.main import app
from app.quotas import service as quotas
from tests.factories import (
    PASSWORD,
    make_dataset,
    make_job,
    make_model,
    make_sign_in,
    make_user,
    make_workspace,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path="/usr/bin/chromium") as browser,
    ):
        yield browser


@pytest.fixture
def address(database: None) -> Iterator[str]:
    """The application behind a real server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield "http://{}:{}".format(*listener.getsockname())
        server.should_exit = True
        thread.join(10)


@dataclass
class Admin:
    user: User
    workspace: Workspace
    cookie: tuple[str, str]


@pytest.fixture
def admin(db: Session) -> Admin:
    user = make_user(db, is_platform_admin=True, name="Root")
    workspace = make_workspace(db, owner=user, name="Platform")
    made = Admin(user, workspace, make_sign_in(db, user, workspace))
    db.commit()
    return made


@pytest.fixture
def page(browser: Browser, address: str, admin: Admin) -> Iterator[Page]:
    """Signed in as a platform admin; fails on anything the browser complains of."""
    context = browser.new_context(base_url=address, locale="en-US", color_scheme="light")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    name, value = admin.cookie
    context.add_cookies([{"name": name, "value": value, "url": address}])
    page = context.new_page()
    page.set_default_timeout(10_000)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if grave(message) else None)
    yield page
    context.close()
    assert said == []


def grave(message) -> bool:
    expected = "Failed to load resource: the server responded with a status of 4"
    return message.type in ("error", "warning") and not message.text.startswith(expected)


def test_a_key_is_made_copied_and_revoked(page):
    page.goto("/keys")
    page.get_by_test_id("new-key").click()
    page.get_by_test_id("key-name").fill("from a test")
    page.get_by_test_id("create-key").click()
    secret = page.get_by_test_id("secret").inner_text()
    page.get_by_role("status").locator("[data-copy]").click()
    expect(page.get_by_label("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    row = page.get_by_test_id("key-row")
    row.get_by_test_id("revoke-key").click()
    expect(page.get_by_test_id("confirm")).to_contain_text("Revoke the key “from a test”?")
    page.get_by_test_id("confirm-no").click()
    expect(row).to_have_count(1)
    row.get_by_test_id("revoke-key").click()
    page.get_by_test_id("confirm-yes").click()
    expect(row).to_have_count(0)


def test_a_refused_form_opens_again_with_what_was_typed(page):
    page.goto("/admin/workspaces")
    page.get_by_test_id("new-workspace").click()
    page.get_by_label("Name", exact=False).first.fill("Vision")
    page.get_by_label("Owner").fill("nobody@example.com")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_text("Nobody here has the address")).to_be_visible()
    assert page.locator("#f-name").input_value() == "Vision"
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()


def test_a_quota_is_typed_in_place(db, page, admin):
    page.goto("/admin/workspaces")
    page.get_by_test_id("quota-input").fill("3")
    page.get_by_test_id("quota-input").press("Enter")
    expect(page.get_by_text("Saved")).to_be_attached()
    assert quotas.limit(db, admin.workspace.id) == 3
    page.get_by_test_id("quota-input").fill("-2")
    page.get_by_test_id("quota-input").evaluate("(input) => input.removeAttribute('min')")
    page.get_by_test_id("quota-input").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Must be at least 0.")


def test_a_pressed_button_is_busy_within_100_ms(page):
    def slowly(route: Route) -> None:
        time.sleep(0.5)
        route.continue_()

    page.goto("/account")
    page.route("**/account/password", slowly)
    page.get_by_test_id("current-password").fill(PASSWORD)
    page.get_by_test_id("new-password").fill("another password")
    page.evaluate("""() => {
        const button = document.querySelector("[data-testid=change-password]");
        let pressed;
        button.addEventListener("click", () => { pressed = performance.now(); }, true);
        new MutationObserver(() => {
            if (!sessionStorage.busy) sessionStorage.busy = performance.now() - pressed;
            if (button.disabled) sessionStorage.disabled = "yes";
        }).observe(button, {attributes: true});
    }""")
    page.get_by_test_id("change-password").click()
    expect(page.get_by_text("Your password was changed.")).to_be_visible()
    assert 0 <= float(page.evaluate("sessionStorage.busy")) < 100
    assert page.evaluate("sessionStorage.disabled") == "yes"


def test_theme_language_and_menu_are_remembered(page):
    page.goto("/")
    html = page.locator("html")
    expect(html).to_have_attribute("data-bs-theme", "light")
    page.get_by_test_id("theme").click()
    page.locator("[data-fold]").click()
    page.goto("/keys")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    expect(html).to_have_attribute("data-nav", "icons")
    page.get_by_test_id("language").click()
    expect(html).to_have_attribute("lang", "zh-CN")
    assert page.url.endswith("/keys")


def test_the_system_decides_where_nobody_chose(page):
    page.emulate_media(color_scheme="dark")
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")


def test_by_keyboard(page):
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    menu = page.get_by_test_id("workspace-switch")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Platform")).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    expect(page.get_by_role("button", name="Platform")).not_to_be_visible()


def test_on_a_phone_the_menu_is_a_drawer(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/")
    side = page.locator("#side")
    expect(side).not_to_be_visible()
    page.get_by_label("Menu", exact=True).click()
    expect(side).to_be_visible()
    page.keyboard.press("Escape")
    expect(side).not_to_be_visible()
    page.get_by_label("Menu", exact=True).click()
    page.get_by_test_id("nav-keys").click()
    expect(page).to_have_url(page.url.split("/keys")[0] + "/keys")


def test_an_error_of_htmx_is_a_toast_that_stays_until_closed(page):
    page.goto("/")
    page.evaluate("htmx.ajax('GET', '/nothing', {target: '#now'})")
    toast = page.locator(".toast")
    expect(toast).to_contain_text("There is nothing at this address.")
    expect(page.locator("#now")).to_be_visible()  # what was there is still there
    toast.get_by_label("Close").click()
    expect(toast).to_have_count(0)


def test_times_are_relative_and_exact_on_hover(db, page, admin):
    make_job(db, admin.workspace, admin.user, state="running", step=1, total=10)
    db.commit()
    page.goto("/")
    when = page.locator("#now time")
    expect(when).to_have_text("now")
    assert "202" in when.get_attribute("title")


WIDTHS = (390, 768, 1280)
PAGES = (
    "/",
    "/datasets",
    "/datasets/new",
    "/jobs",
    "/jobs/new",
    "/models",
    "/deployments",
    "/deployments/new",
    "/chat",
    "/keys",
    "/account",
    "/api",
    "/admin",
    "/admin/workspaces",
    "/admin/people",
)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(db, page, admin, width):
    make_dataset(db, admin.workspace, rows=3)
    make_model(db, name="a-model-with-a-name-as-long-as-hubs-like-them-" + "x" * 40)
    make_job(db, admin.workspace, admin.user, name="训练任务 " + "很长的名字" * 10, state="paused")
    db.commit()
    page.set_viewport_size({"width": width, "height": 800})
    wide = {}
    for path in PAGES:
        page.goto(path)
        wide[path] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert {path: by for path, by in wide.items() if by > 0} == {}
