"""The chat's JSON and pages, without an engine."""

import json

from tests.chat.talks import answer, ask, said
from tests.conftest import sign_in
from tests.factories import make_membership, make_user
from tests.jobs.people import principal

COLUMN = [{"lane": 0, "model": "nobody"}]


def events(body: str) -> list[tuple[str, dict]]:
    found = []
    for block in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if lines:
            found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def test_a_question_is_kept_when_nobody_answers(client):
    asked = client.post("/api/v1/conversations", json={"content": " hi\n you ", "columns": COLUMN})
    assert asked.status_code == 201
    talk = asked.json()
    assert talk["title"] == "hi you"
    address = f"/api/v1/conversations/{talk['conversation']}"
    body = {"question": talk["asked"][0]["question"], "model": "nobody"}
    answered = client.post(f"{address}/answers", json=body, headers={"accept-language": "zh"})
    assert answered.headers["content-type"].startswith("text/event-stream")
    (first, _), (last, failed) = events(answered.text)
    assert (first, last, failed["code"]) == ("answer", "failed", "model_not_found")
    assert "nobody" in failed["error"]
    for _ in range(2):
        stored = client.get(f"{address}/messages").json()["data"]
        assert [one["role"] for one in stored] == ["user", "assistant"]
        assert (stored[1]["state"], stored[1]["content"]) == ("failed", "")
        assert stored[1]["error"]
        client.post(f"{address}/answers", json=body)  # another try stands in its place


def test_what_cannot_be_asked_is_refused(client):
    def status(**more):
        body = {"content": "hi", "columns": COLUMN} | more
        return client.post("/api/v1/conversations", json=body).status_code

    assert status() == 201
    assert status(content="  ") == 422
    assert status(columns=[]) == 422
    assert status(columns=[{"lane": lane, "model": "m"} for lane in range(5)]) == 422
    assert status(columns=COLUMN * 2) == 422
    assert status(settings={"temperature": 9}) == 422
    assert status(settings={"chat_template": "{{ x }}"}) == 422
    assert status(settings={"stop": [""]}) == 422
    assert status(conversation="cnv_nothing") == 404
    assert client.get("/api/v1/conversations?q=hi").json()["data"][0]["title"] == "hi"


def test_rename_share_export_delete(db, client):
    who = principal(db, client.workspace)
    talk, _ = said(db, who, ("你好", "*hi*"))
    db.commit()
    address = f"/api/v1/conversations/{talk.id}"
    changed = client.patch(address, json={"title": " a  b ", "shared": True}).json()
    assert (changed["title"], changed["shared"], changed["own"]) == ("a b", True, True)
    plain = client.get(f"{address}/export?form=markdown")
    assert plain.headers["content-type"].startswith("text/markdown")
    assert plain.headers["content-disposition"].startswith("attachment")
    assert plain.text.startswith("# a b\n")
    assert client.get(f"{address}/export").json()["messages"][1]["content"] == "*hi*"
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404


def test_a_colleague_reads_what_is_shared_and_changes_nothing(db, client):
    who = principal(db, client.workspace)
    talk, (one,) = said(db, who, ("q", "hidden words"))
    viewer = make_user(db)
    make_membership(db, client.workspace, viewer, "viewer")
    db.commit()
    client.patch(f"/api/v1/conversations/{talk.id}", json={"shared": True})
    sign_in(db, client, viewer, client.workspace)
    page = client.get(f"/chat/{talk.id}")
    assert page.status_code == 200
    assert 'data-testid="chat-readonly"' in page.text
    assert 'id="composer"' not in page.text
    address = f"/api/v1/conversations/{talk.id}"
    assert client.get(f"{address}/messages").json()["data"][1]["content"] == "hidden words"
    assert client.get(f"{address}/messages/{one.id}/code").json()[0]["id"] == "curl"
    for refused in (
        client.patch(address, json={"title": "x"}),
        client.delete(address),
        client.post(f"{address}/answers", json={"question": one.parent_id, "model": "m"}),
        client.put(f"{address}/messages/{one.id}/feedback", json={"rating": 1}),
    ):
        assert refused.status_code == 403
    member = make_user(db)
    make_membership(db, client.workspace, member, "member")
    sign_in(db, client, member, client.workspace)
    assert client.delete(address).status_code == 404
    assert f"/chat/{talk.id}" in client.get("/chat/side?of=shared").text
    assert f"/chat/{talk.id}" not in client.get("/chat/side").text


def test_presets(client):
    kept = client.put("/api/v1/chat-presets", json={"name": "calm", "settings": {"seed": 1}})
    assert kept.json()["settings"] == {"seed": 1}
    assert [one["name"] for one in client.get("/api/v1/chat-presets").json()["data"]] == ["calm"]
    assert "calm" in client.get("/chat").text
    assert client.delete(f"/api/v1/chat-presets/{kept.json()['id']}").status_code == 204


def test_from_a_thumb_to_a_draft(db, client):
    who = principal(db, client.workspace)
    talk, asked = ask(db, who, "q <b>", "base", "tuned")
    bad = answer(db, talk, asked[0][1], "L", lane=0, model="base")
    good = answer(db, talk, asked[1][1], "R", lane=1, model="tuned")
    db.commit()
    assert "Nothing is rated yet" in client.get("/chat/feedback").text
    address = f"/api/v1/conversations/{talk.id}/messages"
    judged = client.put(
        f"{address}/{good.id}/feedback", json={"rating": 1, "chosen_over": [bad.id]}
    )
    assert judged.json()["chosen_over"] == [bad.id]
    client.put(f"{address}/{bad.id}/feedback", json={"rating": -1})
    page = client.get("/chat/feedback")
    assert page.text.count('data-testid="rated"') == 2
    assert "q &lt;b&gt;" in page.text
    counts = client.get(f"/chat/feedback/counts?ids={good.id}").text
    assert "1 rows" in counts
    assert client.get("/chat/feedback/counts?ids=msg_x").status_code == 404
    listed = client.get("/api/v1/feedback?rating=down").json()
    assert [one["id"] for one in listed["data"]] == [bad.id]
    made = client.post("/chat/feedback", data={"kind": "preference", "name": "Pairs"})
    assert made.status_code == 303
    assert "Pairs" in client.get(made.headers["location"]).text
    none = client.post("/chat/feedback", data={"kind": "sft", "ids": bad.id, "name": "x"})
    assert none.status_code == 422
    assert "no row of this kind" in none.text
    body = {"kind": "kto", "name": "Labels"}
    assert client.post("/api/v1/feedback/dataset", json=body).json()["rows"] == 2
