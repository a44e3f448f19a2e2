"""Drafts on pages: forms, previews, history, comparing, who may."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from tests.conftest import Client, sign_in
from tests.datasets.files import HTMX, jsonl, many, row
from tests.datasets.test_routes import EVIL, one, page, test_id, uploaded
from tests.factories import make_dataset, make_membership, make_user

FIELDS = ("role", "content", "weight", "name", "reasoning_content", "tool_calls", "tool_call_id")


def fields(soup: BeautifulSoup) -> dict[str, Any]:
    """What a browser would send of the row's form."""
    form = one(soup, test_id("row-form"))
    found: dict[str, Any] = {}
    for control in form.select("input[name], textarea[name], select[name]"):
        if control.name == "select":
            chosen = control.select_one("option[selected]") or control.select_one("option")
            value = str(chosen["value"]) if chosen else ""
        elif control.name == "textarea":
            value = control.get_text().removeprefix("\n").replace("\n", "\r\n")
        else:
            value = str(control.get("value", ""))
        found.setdefault(str(control["name"]), []).append(value)
    return found


def answers(client: Client, path: str) -> list[str]:
    soup = page(client.get(f"{path}?limit=200"))
    return [line.get_text() for line in soup.select("[data-pick] .rows-text .text-secondary")]


# -- one row -----------------------------------------------------------------------------


def test_a_row_as_a_conversation(client: Client) -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "search", "arguments": '{"q": 1}'}}
    talk = {
        "messages": [
            {"role": "system", "content": EVIL},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "assistant", "content": "<think>so it rains</think>\nRain.", "weight": 0},
            {"role": "user", "content": "thanks"},
            {"role": "assistant", "content": "Bye."},
        ],
        "tools": [{"type": "function", "function": {"name": "search", "parameters": {}}}],
    }
    path = uploaded(client, jsonl(talk, row()))
    address = f"{path}?version=1&offset=0&row=0&view=json"
    assert client.get(f"{path}/rows/0?view=json").headers["location"] == address
    soup = page(client.get(f"{path}/rows/0", headers=HTMX))
    assert not soup.select("script, img")
    roles = [turn["data-role"] for turn in soup.select(".turn")]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert "search" in soup.select("div.turn-call")[0].get_text()
    assert one(soup, ".turn-think .turn-text").get_text() == "so it rains"
    assert soup.select(".turn-text")[-3].get_text() == "Rain."
    assert one(soup, test_id("turn-weight")).get_text() == "not trained"
    assert one(soup, test_id("row-next"))["hx-get"] == f"{path}/rows/1?version=&view=chat"
    assert not soup.select(test_id("row-prev"))
    link = str(one(soup, test_id("row-link"))["href"])
    assert client.get(link).headers["location"] == f"{path}?version=1&offset=0&row=0"
    tokens = page(client.get(f"{path}/rows/0?view=tokens", headers=HTMX))
    assert one(tokens, "#tokens")["hx-get"] == f"{path}/rows/0/tokens?version=1"
    assert '"role": "tool"' in page(client.get(f"{path}/rows/0?view=json", headers=HTMX)).get_text()
    assert client.get(f"{path}/rows/2", headers=HTMX).status_code == 404
    assert client.get(f"{path}/row/dv_x.1").status_code == 404


KINDS = [
    {"text": "Once upon a time."},
    {
        "messages": [{"role": "user", "content": "q"}],
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    },
    {"messages": row("q", "a")["messages"], "label": False},
]


@pytest.mark.parametrize("raw", KINDS, ids=["pretrain", "preference", "kto"])
def test_rows_of_every_kind(client: Client, db: Session, raw: dict[str, Any]) -> None:
    path = uploaded(client, jsonl(raw))
    soup = page(client.get(path))
    pane = one(soup, "#row")
    if "text" in raw:
        assert one(pane, test_id("row-text")).get_text() == raw["text"]
    elif "label" in raw:
        assert one(pane, test_id("row-label")).get_text() == "Bad answer"
    else:
        assert "good" in one(pane, test_id("row-chosen")).get_text()
        assert "bad" in one(pane, test_id("row-rejected")).get_text()
    form = fields(page(client.get(f"{path}/rows/0/edit")))
    same = client.post(f"{path}/rows/0/edit", data=form)
    assert "Nothing was changed" in page(same, 422).get_text()
    if "text" in raw:
        form["text"] = ["Once more."]
    elif "label" in raw:
        form["label"] = ["true"]
    else:
        form["chosen.content"] = ["better"]
    assert client.post(f"{path}/rows/0/edit", data=form).status_code == 303
    shown = page(client.get(f"{path}/rows/0", headers=HTMX)).get_text()
    assert any(word in shown for word in ("Once more.", "Good answer", "better"))
    assert (
        client.post(f"{path}/add", data=fields(page(client.get(f"{path}/add")))).status_code == 422
    )
    assert client.post(f"{path}/publish").status_code == 303


# -- editing -----------------------------------------------------------------------------


def test_edit_a_row(client: Client) -> None:
    path = uploaded(client, jsonl(row("\nfirst\r\nline", "answer"), row("b", "c")))
    soup = page(client.get(f"{path}/rows/0/edit?version=1"))
    form = fields(soup)
    assert form["content"] == ["\r\nfirst\r\nline", "answer"]
    form["content"][1] = "better\r\nanswer"
    form["weight"][1] = "0.5"
    saved = client.post(f"{path}/rows/0/edit", data=form)
    assert saved.headers["location"] == f"{path}?version=1&offset=0&row=0"
    rows = page(client.get(f"{path}?row=0"))
    assert one(rows, test_id("row-mark")).get_text() == "Changed"
    shown = client.get(f"/api/v1{path}/rows").json()["data"][0]["messages"]
    assert shown[0]["content"] == "\nfirst\r\nline"  # what was not touched is as it was
    assert shown[1] == {"role": "assistant", "content": "better\nanswer", "weight": 0.5}

    form = fields(page(client.get(f"{path}/rows/1/edit")))
    for bad, place in (
        ({"content": ["b", " "]}, "1-content"),
        ({"weight": ["", "x"]}, "1-weight"),
        ({"role": ["robot", "assistant"]}, "0-role"),
        ({"tool_calls": ["", "{"]}, "1-tool_calls"),
        ({"tools": ["5 5"]}, "tools"),
    ):
        refused = page(client.post(f"{path}/rows/1/edit", data=form | bad), 422)
        assert one(refused, f"#e-{place}").get_text()
        name, values = next(iter(bad.items()))
        assert fields(refused)[name] == values  # as it was typed
    assert client.post(f"{path}/rows/1/edit", data=form | {"content": ["one"]}).status_code == 422


def test_turns_are_added_moved_and_removed(client: Client) -> None:
    path = uploaded(client, many(1))
    form = fields(page(client.get(f"{path}/rows/0/edit")))
    for do, roles in (
        ("add:1", ["user", "assistant", "user"]),
        ("add:2", ["user", "assistant", "user", "assistant"]),
        ("up:3", ["user", "assistant", "assistant", "user"]),
        ("down:2", ["user", "assistant", "user", "assistant"]),
        ("remove:3", ["user", "assistant", "user"]),
        ("remove:99", ["user", "assistant", "user"]),
        ("up:x", ["user", "assistant", "user"]),
    ):
        form = fields(page(client.post(f"{path}/rows/0/edit", data=form | {"do": do})))
        assert form["role"] == roles, do
    refused = page(client.post(f"{path}/rows/0/edit", data=form), 422)
    assert refused.select(test_id("row-error")) or refused.select(".alert-danger")


def test_edit_as_json(client: Client) -> None:
    path = uploaded(client, many(2))
    form = fields(page(client.get(f"{path}/rows/1/edit?view=json")))
    refused = page(client.post(f"{path}/rows/1/edit", data=form | {"json": ["{"]}), 422)
    assert "line 1" in one(refused, "#e-json").get_text()
    refused = page(
        client.post(f"{path}/rows/1/edit", data=form | {"json": ['{"messages": []}']}), 422
    )
    assert one(refused, "#e-json").get_text()
    form["json"] = [form["json"][0].replace("answer 1", "changed")]
    assert client.post(f"{path}/rows/1/edit", data=form).status_code == 303
    assert answers(client, path) == ["answer 0", "changed"]


def test_the_later_editor_sees_what_changed(client: Client) -> None:
    path = uploaded(client, many(2))
    mine = fields(page(client.get(f"{path}/rows/0/edit")))
    theirs = mine | {"content": ["question 0", "theirs"]}
    assert client.post(f"{path}/rows/0/edit", data=theirs).status_code == 303
    soup = page(client.post(f"{path}/rows/0/edit", data=mine | {"content": ["q", "mine"]}), 409)
    assert "messages[1].content" in soup.get_text()
    assert "theirs" in one(soup, test_id("row-now")).get_text()
    again = fields(soup)
    assert again["content"] == ["q", "mine"]
    assert client.post(f"{path}/rows/0/edit", data=again).status_code == 303
    assert answers(client, path)[0] == "mine"


def test_add_delete_restore_undo(client: Client) -> None:
    path = uploaded(client, many(3))
    soup = page(client.get(f"{path}?row=0"))
    form = fields(page(client.get(str(one(soup, test_id("row-add-after"))["href"]))))
    form["content"] = ["new question", "new answer"]
    added = client.post(f"{path}/add", data=form)
    assert added.headers["location"] == f"{path}?version=1&offset=0&row=1"
    assert answers(client, path) == ["answer 0", "new answer", "answer 1", "answer 2"]
    names = [str(box["value"]) for box in page(client.get(path)).select(test_id("row-select"))]
    gone = client.post(f"{path}/rows/delete", data={"version": "1", "id": names[2:]})
    assert gone.status_code == 303
    assert answers(client, path) == ["answer 0", "new answer"]
    soup = page(client.get(f"{path}/deleted?version=1"))
    assert len(soup.select(test_id("deleted-select"))) == 2
    back = client.post(f"{path}/restore", data={"version": "1", "id": names[3]})
    assert back.headers["location"] == f"{path}/deleted?version=1"
    assert answers(client, path) == ["answer 0", "new answer", "answer 2"]
    for _ in range(3):
        assert client.post(f"{path}/undo", data={"version": "1"}).status_code == 303
    assert answers(client, path) == ["answer 0", "answer 1", "answer 2"]
    bar = one(page(client.get(path)), "#draft-bar")
    assert one(bar, test_id("draft-undo")).has_attr("disabled")
    assert not one(bar, test_id("draft-redo")).has_attr("disabled")
    client.post(f"{path}/redo", data={"version": "1"})
    assert len(answers(client, path)) == 4
    found = client.post(f"{path}/rows/delete", data={"version": "1", "found": "true", "q": "new"})
    assert found.status_code == 303
    assert len(answers(client, path)) == 3
    assert client.post(f"{path}/rows/delete", data={"version": "1"}).status_code == 422


def test_history(client: Client) -> None:
    path = uploaded(client, many(2))
    form = fields(page(client.get(f"{path}/rows/0/edit")))
    client.post(f"{path}/rows/0/edit", data=form | {"content": ["question 0", EVIL]})
    client.post(f"{path}/undo", data={"version": "1"})
    soup = page(client.get(f"{path}/history"))
    line = one(soup, test_id("history-act"))
    assert line["data-state"] == "undone"
    assert client.user.name in line.get_text()
    edits = page(client.get(str(one(soup, test_id("history-show"))["href"])))
    assert not edits.select("main img")
    changed = one(edits, "[data-change=changed]")
    assert changed.select("ins")
    row_id = form["id"][0]
    assert "Row edited" in page(client.get(f"{path}/history?row={row_id}")).get_text()
    assert client.get(f"{path}/history?act=act_x").status_code == 404


def test_replace(client: Client) -> None:
    path = uploaded(client, many(30))
    soup = page(
        client.get(
            f"{path}/replace", params={"find": "ANSWER (\\d)", "replace": "<b>\\1", "regex": "true"}
        )
    )
    assert "30 matches · 30 rows would change" in one(soup, test_id("replace-counts")).get_text()
    assert len(soup.select(test_id("replace-example"))) == 20
    assert [one_.get_text() for one_ in soup.select("ins")[:2]] == ["<b>0", "<b>1"]
    form = one(soup, f"form[action='{path}/replace'][method=post]")
    data = {
        str(part["name"]): str(part.get("value", part.get_text().removeprefix("\n")))
        for part in form.select("[name]")
    }
    assert client.post(f"{path}/replace", data=data).status_code == 303
    assert answers(client, path)[29] == "<b>29"
    for find, replace in (("(", ""), ("(?=a)", ""), ("a", "\\1"), ("a" * 501, "")):
        asked = {"find": find, "replace": replace, "regex": "true"}
        assert client.get(f"{path}/replace", params=asked).status_code == 422
    nothing = page(client.get(f"{path}/replace", params={"find": "nowhere"}))
    assert "Nothing would change" in nothing.get_text()
    assert client.get(f"{path}/replace").status_code == 200


def test_a_new_draft_and_comparing(client: Client) -> None:
    path = uploaded(client, many(5))
    client.post(f"{path}/publish")
    soup = page(client.get(path))
    assert not soup.select(test_id("row-edit"))
    assert one(soup, test_id("draft-begin"))
    refused = page(client.get(f"{path}/rows/0/edit"), 409)
    assert "Make a new draft" in refused.get_text()
    begun = client.post(f"{path}/draft", data={"version": "1"})
    assert begun.headers["location"] == f"{path}?version=2&offset=0"
    assert "open draft" in page(client.post(f"{path}/draft", data={"version": "1"}), 409).get_text()
    form = fields(page(client.get(f"{path}/rows/0/edit")))
    client.post(f"{path}/rows/0/edit", data=form | {"content": ["question 0", "changed text"]})
    soup = page(client.get(f"{path}/compare?from=1&to=2"))
    assert one(soup, "#compare")["data-state"] == "done"
    assert [row_["data-change"] for row_ in soup.select(test_id("compare-row"))] == ["changed"]
    assert "4 rows are the same" in one(soup, test_id("compare-same")).get_text()
    assert page(client.get(f"{path}/compare?change=added")).select(".empty")
    versions = page(client.get(f"{path}/versions"))
    assert one(versions, test_id("version-compare"))["href"] == f"{path}/compare?from=1&to=2"
    assert one(versions, test_id("version-discard"))
    assert client.post(f"{path}/discard", data={"version": "2"}).status_code == 303
    assert (
        len(page(client.get(f"{path}/versions")).select("[data-testid=dataset-versions] tbody tr"))
        == 1
    )


def test_what_is_under_way_is_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.datasets.drafts.rewriting.MOST_CHANGES", 3)
    path = uploaded(client, many(30))
    client.post(f"{path}/replace", data={"version": "1", "find": "answer", "replace": "x"})
    soup = page(client.get(path))
    assert one(soup, test_id("draft-running"))["hx-get"] == f"{path}/bar?version=1"
    assert "hx-refresh" not in client.get(f"{path}/bar").headers
    assert client.post(f"{path}/stop", data={"version": "1"}).status_code == 303
    assert client.get(f"{path}/bar").headers["hx-refresh"] == "true"
    assert answers(client, path)[0] == "answer 0"


def test_who_may(client: Client, db: Session) -> None:
    path = uploaded(client, many(3))
    viewer = make_user(db)
    make_membership(db, client.workspace, viewer, "viewer")
    sign_in(db, client, viewer, client.workspace)
    soup = page(client.get(path))
    assert not soup.select(
        f"{test_id('row-edit')}, {test_id('draft-bar')}, {test_id('row-select')}"
    )
    assert client.get(f"{path}/rows/0/edit").status_code == 403
    for tail in ("/history", "/deleted", "/compare"):
        assert client.get(path + tail).status_code == 200
    sample = make_dataset(db, None, status="draft")
    db.commit()
    sign_in(db, client)
    assert client.post(f"/datasets/{sample.dataset_id}/undo").status_code == 403
