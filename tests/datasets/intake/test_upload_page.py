"""Uploading in a real browser: progress, pause, lost connections, a closed page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.datasets.files import many
from tests.stack import Stack
from tests.test_journey import CHROMIUM, QUIET, at

pytestmark = pytest.mark.slow
PIECE = 256 * 1024  # bytes, so that a small file goes in many


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """Signed in, on the page for a new dataset."""
    context = browser.new_context(base_url=stack.url, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto("/datasets/new")
    at(page, "email").fill(stack.email)
    at(page, "password").fill(stack.password)
    at(page, "sign-in").click()
    expect(page).to_have_url(f"{stack.url}/datasets/new")
    yield page
    context.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(many(30_000))  # about 3 MB: a dozen pieces
    return path


def choose(page: Page, *files: Path) -> None:
    page.eval_on_selector("form[data-resumable]", f"form => form.dataset.piece = {PIECE}")
    at(page, "dataset-file").set_input_files(files)
    expect(page.get_by_test_id("upload")).to_have_count(len(files))


def lose(page: Page, share: float, file: Path, times: int = 1) -> list[int]:
    """Break the connection of the pieces from `share` of the file on; the offsets that went."""
    size, offsets, left = file.stat().st_size, [], [times]

    def piece(route: Route) -> None:
        if route.request.method != "PATCH":
            route.continue_()
            return
        offset = int(route.request.headers["upload-offset"])
        if offset >= share * size and left[0]:
            left[0] -= 1
            route.abort("connectionreset")
            return
        offsets.append(offset)
        route.continue_()

    page.route("**/api/v1/uploads/*", piece)
    return offsets


def arrivals(page: Page, stack: Stack) -> list[list[bytes]]:
    """What lies at the server, file by file, each time that the page says it is complete."""
    found: list[list[bytes]] = []

    def complete(route: Route) -> None:
        held = sorted(
            (stack.home / "uploads").glob("up_*/body"), key=lambda one: one.stat().st_ctime
        )
        found.append([one.read_bytes() for one in held])
        route.continue_()

    page.route("**/api/v1/datasets", complete)
    return found


def rows(stack: Stack, page: Page) -> int:
    """Of the dataset in view, once it is checked. Nothing of its upload is left."""
    page.wait_for_url(re.compile("/datasets/ds_"))
    found = stack.wait(f"/datasets/{page.url.rsplit('/', 1)[1]}", until=("draft", "failed"))
    assert found["status"] == "draft", found
    assert list((stack.home / "uploads").glob("up_*")) == []
    return int(found["rows"])


def test_a_lost_connection_at_60_percent(page: Page, stack: Stack, file: Path) -> None:
    offsets = lose(page, 0.6, file, times=2)
    arrived = arrivals(page, stack)
    choose(page, file)
    at(page, "dataset-name").fill("lost and found")
    at(page, "dataset-submit").click()
    expect(at(page, "upload-said")).to_contain_text("connection was lost")
    held = sorted((stack.home / "uploads").glob("up_*/body"))
    assert len(held) == 1
    so_far = held[0].read_bytes()
    assert 0.6 <= len(so_far) / file.stat().st_size < 0.8
    assert file.read_bytes().startswith(so_far)
    assert rows(stack, page) == 30_000
    assert offsets == list(range(0, file.stat().st_size, PIECE))  # nothing was sent twice
    assert arrived == [[file.read_bytes()]]


def test_the_page_is_closed_and_the_file_chosen_again(page: Page, stack: Stack, file: Path) -> None:
    first = lose(page, 0.6, file, times=99)
    choose(page, file)
    at(page, "dataset-submit").click()
    expect(at(page, "upload-said")).to_contain_text("connection was lost")
    before = len(first)
    page.unroute("**/api/v1/uploads/*")
    page.reload()
    expect(at(page, "uploads-unfinished")).to_contain_text("reviews.jsonl")
    second = lose(page, 2, file)
    arrived = arrivals(page, stack)
    choose(page, file)
    at(page, "dataset-submit").click()
    assert rows(stack, page) == 30_000
    assert second[0] == before * PIECE
    assert arrived == [[file.read_bytes()]]


def test_pausing_and_removing(page: Page, stack: Stack, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(many(20))
    page.route("**/api/v1/uploads/*", lambda route: (page.wait_for_timeout(150), route.continue_()))
    choose(page, file, other)
    at(page, "dataset-submit").click()
    at(page, "upload-pause").click()
    expect(at(page, "upload-said")).to_contain_text("Paused")
    page.wait_for_timeout(500)
    paused = at(page, "upload-said").inner_text()
    page.wait_for_timeout(500)
    assert at(page, "upload-said").inner_text() == paused
    at(page, "upload-resume").click()
    expect(at(page, "upload-said")).not_to_contain_text("Paused")
    page.get_by_test_id("upload-cancel").first.click()
    expect(page.get_by_test_id("upload")).to_have_count(1)
    assert rows(stack, page) == 20


def test_several_files_and_a_refusal_beside_the_field(
    page: Page, stack: Stack, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for number, one in enumerate(files):
        one.write_bytes(many(10 + number))
    choose(page, *files)
    page.eval_on_selector(
        "#f-name", "name => { name.maxLength = 500; name.value = 'x'.repeat(200) }"
    )
    at(page, "dataset-submit").click()
    expect(page.locator("#e-name")).to_contain_text("120")
    at(page, "dataset-name").fill("two files")
    at(page, "dataset-submit").click()
    assert rows(stack, page) == 21


def test_without_the_script_the_form_sends_the_file(
    browser: Browser, page: Page, stack: Stack, file: Path
) -> None:
    context = browser.new_context(
        base_url=stack.url, java_script_enabled=False, storage_state=page.context.storage_state()
    )
    plain = context.new_page()
    plain.goto("/datasets/new")
    at(plain, "dataset-file").set_input_files(file)
    at(plain, "dataset-submit").click()
    assert rows(stack, plain) == 30_000
    context.close()


def test_a_folder(page: Page, stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "chat set"
    (folder / "data").mkdir(parents=True)
    (folder / ".hidden.jsonl").write_bytes(b"not read")
    (folder / "data" / "talk.json").write_text(
        json.dumps([{"frage": "a", "antwort": "b"}, {"frage": "c", "antwort": "d"}])
    )
    named = {"file_name": "data/talk.json", "columns": {"prompt": "frage", "response": "antwort"}}
    (folder / "dataset_info.json").write_text(json.dumps({"talk": named}))
    at(page, "dataset-folder-input").set_input_files(folder)
    names = page.locator(".upload-name").all_text_contents()
    assert sorted(names) == ["chat set/data/talk.json", "chat set/dataset_info.json"]
    at(page, "dataset-submit").click()
    expect(page.get_by_test_id("dataset-row")).to_have_count(2)
    expect(page.get_by_role("heading", name="chat set")).to_be_visible()
