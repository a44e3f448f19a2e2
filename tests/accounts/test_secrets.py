import pytest
from sqlalchemy import select, text

from app.accounts import user_secrets
from app.accounts.tables import AuditEntry, UserSecret
from app.errors import NotFound
from tests import factories as make
from tests.conftest import sign_in
from tests.stand_in_hub import serving as stand_in

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123"


@pytest.fixture
def hub(monkeypatch):
    with stand_in() as found:
        monkeypatch.setattr("app.config.settings.hf_endpoint", found.url)
        monkeypatch.setattr("app.config.settings.modelscope_endpoint", found.url)
        yield found


def keep(client, **more):
    body = {"kind": "huggingface", "name": "mine", "value": TOKEN} | more
    return client.post("/api/v1/secrets", json=body)


def dump(db):
    """Every text of every row."""
    tables = db.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
    return "\n".join(
        row for name in tables for row in db.scalars(text(f'SELECT t::text FROM "{name}" t'))
    )


def test_a_secret_is_written_and_never_read_back(db, client):
    made = keep(client)
    assert made.status_code == 201
    assert made.json()["tail"] == TOKEN[-4:]
    assert made.json()["shared"] is False
    shown = client.get("/api/v1/secrets").text + client.get("/secrets").text
    assert TOKEN not in made.text + shown
    assert TOKEN not in dump(db)
    row = db.scalar(select(UserSecret))
    assert row.value == TOKEN
    (entry,) = db.scalars(select(AuditEntry).where(AuditEntry.noun == "user_secret"))
    assert (entry.action, entry.after["value"]) == ("create", "•••")


def test_a_new_value_and_the_end(db, client):
    secret_id = keep(client).json()["id"]
    client.put(f"/api/v1/secrets/{secret_id}", json={"value": "hf_another-one-9876"})
    assert db.scalar(select(UserSecret)).tail == "9876"
    assert client.delete(f"/api/v1/secrets/{secret_id}").status_code == 204
    assert client.get("/api/v1/secrets").json()["data"] == []


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"value": "short"}, "value"),
        ({"value": "has a blank in it"}, "value"),
        ({"value": "line\r\nx-evil: yes"}, "value"),
        ({"kind": "post"}, "kind"),
        ({"name": "<b>"}, "name"),
    ],
)
def test_what_cannot_be_kept_names_its_field(client, more, field):
    answer = keep(client, **more)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert more.get("value", "the token") not in answer.text


def test_names_are_one_owners_own(db, client):
    assert keep(client).status_code == 201
    assert keep(client).status_code == 409
    assert keep(client, shared=True).status_code == 201


def test_whose_a_secret_is(db, client):
    mine, ours = keep(client).json()["id"], keep(client, shared=True).json()["id"]
    member = make.make_user(db)
    make.make_membership(db, client.workspace, member, "member")
    sign_in(db, client, member, client.workspace)
    assert [one["id"] for one in client.get("/api/v1/secrets").json()["data"]] == [ours]
    assert client.delete(f"/api/v1/secrets/{mine}").status_code == 404
    assert client.delete(f"/api/v1/secrets/{ours}").status_code == 403
    assert keep(client, shared=True).status_code == 403


def test_a_personal_secret_ends_with_the_membership(db, client):
    secret_id = keep(client).json()["id"]
    here, other = client.workspace.id, make.make_workspace(db).id
    assert user_secrets.use(db, secret_id, "huggingface", here) == TOKEN
    for kind, workspace in (("wandb", here), ("huggingface", other)):
        with pytest.raises(NotFound):
            user_secrets.use(db, secret_id, kind, workspace)
    db.get_one(type(client.user), client.user.id).disabled_at = db.scalar(text("SELECT now()"))
    db.flush()
    with pytest.raises(NotFound):
        user_secrets.use(db, secret_id, "huggingface", here)


def test_the_test_button_asks_the_service(client, hub):
    hub.plain["/api/whoami-v2"] = b'{"name": "lin"}'
    secret_id = keep(client).json()["id"]
    found = client.post(f"/api/v1/secrets/{secret_id}/test").json()
    assert found["checked"]["account"] == "lin"
    assert hub.asked("whoami")[0]["authorization"] == f"Bearer {TOKEN}"
    hub.statuses["/api/whoami-v2"] = 401
    page = client.post(f"/secrets/{secret_id}/test")
    assert "401" in page.text
    flow = keep(client, kind="mlflow").json()["id"]
    assert client.post(f"/api/v1/secrets/{flow}/test").status_code == 409


def test_a_hub_is_shown_the_token_and_another_host_is_not(db, client, hub, tmp_path):
    hub.files = {"train.jsonl": b'{"messages": []}\n'}
    secret_id = keep(client).json()["id"]
    with stand_in() as elsewhere:
        elsewhere.plain["/cdn"] = b"{}"
        wanted = {"hub": "huggingface", "repository": "lin/reviews", "secret": secret_id}
        found = client.get("/api/v1/datasets/import/files", params=wanted)
        assert found.status_code == 200, found.text
        assert {one.get("authorization") for one in hub.asked("/api/datasets")} == {
            f"Bearer {TOKEN}"
        }
        from app import fetching, hubs

        hub.redirects["/away"] = f"http://localhost:{elsewhere.port}/cdn"
        fetching.read(
            f"{hub.url}/away",
            limit=100,
            headers=hubs.headers("huggingface", TOKEN),
            allow=(f"127.0.0.1:{hub.port}", f"localhost:{elsewhere.port}"),
        )
        assert "authorization" not in elsewhere.seen[0][1]


def test_an_import_uses_the_secret_that_was_chosen(db, client, hub):
    from app.datasets.intake import importing
    from app.datasets.tables import DatasetVersion

    hub.files = {"train.jsonl": b'{"prompt": "a", "completion": "b"}\n'}
    secret_id = keep(client).json()["id"]
    body = {"hub": "huggingface", "repository": "lin/reviews", "secret": secret_id}
    made = client.post("/api/v1/datasets/import", json=body)
    assert made.status_code == 201, made.text
    version = db.scalar(select(DatasetVersion))
    importing.import_version(version.id)
    assert {one.get("authorization") for path, one in hub.seen} == {f"Bearer {TOKEN}"}
    db.expire_all()
    assert db.scalar(select(UserSecret)).used_at
    assert TOKEN not in dump(db)
    other = make.make_workspace(db)
    foreign = make.added(
        db,
        UserSecret(workspace_id=other.id, kind="huggingface", name="x", value=TOKEN, tail="0123"),
    )
    db.commit()
    wrong = client.post("/api/v1/datasets/import", json=body | {"secret": foreign.id})
    assert wrong.status_code == 404


def test_an_import_whose_secret_is_gone_says_so(db, client, hub):
    from app.datasets.intake import importing
    from app.datasets.tables import DatasetVersion

    secret_id = keep(client).json()["id"]
    body = {"hub": "huggingface", "repository": "lin/reviews", "secret": secret_id}
    client.post("/api/v1/datasets/import", json=body)
    client.delete(f"/api/v1/secrets/{secret_id}")
    importing.import_version(db.scalar(select(DatasetVersion.id)))
    db.expire_all()
    failed = db.scalar(select(DatasetVersion))
    assert (failed.status, failed.error["code"]) == ("failed", "secret.gone")
