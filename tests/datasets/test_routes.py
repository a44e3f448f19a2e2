"""The pages, as a person without scripts meets them."""

import re
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from sqlalchemy.orm import Session

from tests.conftest import Client
from tests.datasets.files import BAD, HTMX, jsonl, many, row, stored
from tests.factories import make_dataset, make_workspace

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"


def page(answer: Any, status: int = 200) -> BeautifulSoup:
    assert answer.status_code == status, answer.text[:2000]
    return BeautifulSoup(answer.text, "lxml")


def test_id(name: str) -> str:
    return f'[data-testid="{name}"]'


test_id.__test__ = False  # type: ignore[attr-defined]


def one(soup: BeautifulSoup, selector: str) -> Tag:
    found = soup.select(selector)
    assert len(found) == 1, f"{selector}: {len(found)}"
    return found[0]


def upload(client: Client, data: bytes, name: str = "reviews", file_name: str = "a.jsonl") -> Any:
    return client.post("/datasets", files={"file": (file_name, data)}, data={"name": name})


def uploaded(client: Client, data: bytes, **how: str) -> str:
    """The address of the dataset's page."""
    answer = upload(client, data, **how)
    assert answer.status_code == 303
    path = str(answer.headers["location"])
    assert re.fullmatch(r"/datasets/ds_\w{20}", path)
    return path


# -- list and upload ---------------------------------------------------------------------


def test_an_empty_list_offers_the_upload(client: Client) -> None:
    soup = page(client.get("/datasets"))
    assert one(soup, ".empty a")["href"] == "/datasets/new"
    assert one(soup, test_id("dataset-upload"))["href"] == "/datasets/new"


def test_upload_and_list(client: Client, db: Session) -> None:
    form = one(page(client.get("/datasets/new")), 'form[action="/datasets"]')
    assert form["enctype"] == "multipart/form-data"
    names = [field["name"] for field in form.select("input[name]")]
    assert names == ["name", "file"]
    one(form, test_id("dataset-submit"))
    path = uploaded(client, BAD)
    make_dataset(db, make_workspace(db), name="foreign")
    make_dataset(db, None, name="a sample")
    db.commit()
    rows = page(client.get("/datasets")).select(f"{test_id('dataset-list')} tbody tr")
    assert len(rows) == 2
    assert rows[0].select_one("a")["href"] == path
    assert rows[0].select_one("[data-state=draft]")
    assert [cell.get_text(strip=True) for cell in rows[0].select("td")[2:4]] == ["2", "2"]
    assert "Sample" in rows[1].get_text()


def test_the_list_is_filtered_sorted_and_paged(client: Client, db: Session) -> None:
    for number in range(7):
        status = "draft" if number % 2 else "published"
        make_dataset(db, client.workspace, name=f"set {number}", rows=number, status=status)
    db.commit()

    def names(query: str) -> list[str]:
        soup = page(client.get(f"/datasets?{query}"))
        return [link.get_text() for link in soup.select(f"{test_id('dataset-list')} td a")]

    assert names("sort=rows&limit=3") == ["set 0", "set 1", "set 2"]
    assert names("sort=-rows&limit=3&offset=3") == ["set 3", "set 2", "set 1"]
    assert names("status=draft&sort=name") == ["set 1", "set 3", "set 5"]
    assert names("q=SET 4") == ["set 4"]
    assert len(names("sort=bogus&status=bogus")) == 7
    soup = page(client.get("/datasets?q=none"))
    assert one(soup, ".empty a")["href"] == "/datasets"
    assert client.get("/datasets?offset=-1").status_code == 422


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"%PDF-1.7", "PDF"),
        (b"\n{broken\n", "line 2"),
        (jsonl({"messages": [{"role": "user", "content": "x"}]}), "no assistant turn"),
    ],
)
def test_a_refused_upload_keeps_what_was_typed(client: Client, data: bytes, says: str) -> None:
    soup = page(upload(client, data, name="my name"), 422)
    assert one(soup, "#f-name")["value"] == "my name"
    assert says in one(soup, "#e-file").get_text()
    assert stored() == []


def test_a_bad_name_is_told_beside_the_name(client: Client) -> None:
    soup = page(upload(client, many(1), name="x" * 200), 422)
    assert "120" in one(soup, "#e-name").get_text()


def test_no_file_was_chosen(client: Client) -> None:
    soup = page(upload(client, b"", file_name=""), 422)
    assert one(soup, "#e-file").get_text()


def test_messages_are_in_the_readers_language(client: Client) -> None:
    client.cookies.set("danlu_lang", "zh")
    page(client.get("/datasets/new"))
    page(upload(client, b"\n{broken\n"), 422)


# -- rows --------------------------------------------------------------------------------


def test_rows_one_shown_and_paging(client: Client) -> None:
    path = uploaded(client, many(50))
    soup = page(client.get(path))
    items = soup.select(test_id("dataset-row"))
    assert len(items) == 20
    assert "question 0" in items[0].get_text()
    assert items[0]["aria-current"] == "true"
    turns = soup.select(".turn")
    assert [turn["data-role"] for turn in turns] == ["user", "assistant"]
    assert "answer 0" in turns[1].get_text()
    assert soup.select(test_id("dataset-previous")) == []

    second = page(
        client.get(path + str(one(soup, test_id("dataset-next"))["href"]).split("/")[-1][23:])
    )
    assert "question 20" in second.select(test_id("dataset-row"))[0].get_text()
    back = str(one(second, test_id("dataset-previous"))["href"])
    assert "offset=0" in back
    last = page(client.get(f"{path}?offset=40&limit=20"))
    assert len(last.select(test_id("dataset-row"))) == 10
    assert last.select(test_id("dataset-next")) == []
    assert "41–50 of 50" in last.get_text()
    past = page(client.get(f"{path}?offset=4000"))
    assert past.select_one(".empty")


def test_a_row_by_its_address(client: Client) -> None:
    path = uploaded(client, many(30))
    soup = page(client.get(path))
    item = soup.select(test_id("dataset-row"))[7]
    whole = page(client.get(str(item["href"])))
    assert "answer 7" in one(whole, "#row").get_text()
    assert one(whole, "[data-pick][aria-current]").get_text() == item.get_text()
    fragment = client.get(str(item["hx-get"]), headers=HTMX)
    assert fragment.text.strip().startswith('<div class="card" id="row"')
    assert "answer 7" in fragment.text
    as_json = client.get(f"{path}/rows/7?view=json", headers=HTMX).text
    assert "&#34;content&#34;: &#34;answer 7&#34;" in as_json
    for wrong in ("30", "-1", "99999999999999999999"):
        assert client.get(f"{path}/rows/{wrong}").status_code == 404
    assert client.get(f"{path}/rows/x").status_code == 404
    assert client.get(f"{path}?row=30").status_code == 404


def test_search(client: Client) -> None:
    path = uploaded(client, many(300))
    soup = page(client.get(f"{path}?q=ANSWER 17&limit=5"))
    assert [item.select_one(".rows-number").get_text() for item in soup.select("[data-pick]")] == [
        "18", "171", "172", "173", "174",
    ]  # fmt: skip
    more = page(client.get(str(one(soup, test_id("dataset-next"))["href"])))
    assert len(more.select("[data-pick]")) == 5
    assert page(client.get(f"{path}?q=nowhere")).select_one(".empty")


def test_tools_and_long_texts(client: Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": {"z": EVIL}}}
    messages = [
        {"role": "system", "content": EVIL},
        {"role": "user", "content": "x" * 50_000, "name": EVIL},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": EVIL},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {"role": "assistant", "content": "done"},
    ]
    tools = [{"type": "function", "function": {"name": EVIL}}]
    path = uploaded(client, jsonl({"messages": messages, "tools": tools}))
    soup = page(client.get(path))
    assert "30,000 more characters" in soup.get_text()
    assert "now" in one(soup, ".turn .turn-call").get_text()
    inert(soup)
    inert(page(client.get(f"{path}?view=json")))


# -- hostile -----------------------------------------------------------------------------


def inert(soup: BeautifulSoup) -> None:
    """No element or attribute of the page is the file's."""
    assert soup.select("img[src=x]") == []
    assert all(script.get("src") for script in soup.select("script"))
    assert all("onerror" not in tag.attrs for tag in soup.find_all(True))


def test_html_is_only_text(client: Client) -> None:
    bad = {"messages": [{"role": EVIL, "content": "x"}]}
    extra = row(EVIL, EVIL) | {EVIL: 1}
    path = uploaded(client, jsonl(extra, bad), name=EVIL, file_name=EVIL + ".jsonl")
    for address in (
        "/datasets",
        f"/datasets?q={EVIL}",
        path,
        f"{path}?q=alert&version=1",
        f"{path}?view=json",
        f"{path}/validation",
        f"{path}/versions",
        f"{path}/using",
        f"{path}/status",
        f"{path}/rows/0",
    ):
        inert(page(client.get(address, headers=HTMX if "/rows/" in address else {})))
    assert EVIL in page(client.get(path)).get_text()
    assert "<script>alert" in page(client.get(f"{path}/validation")).get_text()


@pytest.mark.parametrize(
    "query",
    ["version=%27", "version=9999999999999999999", "view=<b>", "limit=100000", "offset=9e9",
     "row=x", "q=" + "x" * 600, "q=%00", "version=%00", "q=%ff%fe", "limit=-1"],
)  # fmt: skip
def test_odd_addresses_are_answered(client: Client, query: str) -> None:
    path = uploaded(client, many(3))
    for address in (path, f"{path}/validation", f"{path}/rows/0", "/datasets"):
        assert client.get(f"{address}?{query}").status_code < 500
