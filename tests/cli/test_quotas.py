"""`danlu usage`, and quotas and money of `danlu admin`, over the API."""

import json

import pytest
from typer.testing import CliRunner

from app.cli import client, main, quotas
from app.db import now
from app.quotas import limits, service
from app.quotas import tables as quota_tables
from tests.factories import make_key, make_model, make_workspace


@pytest.fixture
def danlu(db, anonymous, api, monkeypatch):
    """A command of the platform's administrator; `fails`: it shall end with 1."""
    api.user.is_platform_admin = True
    db.commit()
    reached = client.Api("http://testserver", "dk-x")
    reached.http = api
    monkeypatch.setattr(quotas, "connect", lambda: reached)

    def run(*words, fails=False):
        env = {"COLUMNS": "240"}
        done = CliRunner().invoke(main.app, [str(word) for word in words], env=env)
        assert isinstance(done.exception, client.Failed) == fails, (
            f"{done.output} {done.exception!r}"
        )
        assert fails or done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done.stdout

    return run


def test_usage_of_the_month(db, api, danlu):
    assert danlu("usage") == ""
    row = {"id": "rq_1", "kind": "tokens", "workspace_id": api.workspace.id, "at": now()}
    owner = {
        "owner_kind": "deployment",
        "owner_id": "dep_1",
        "model": "mood",
        "prompt_tokens": 1234,
    }
    service.record(db, [row | owner])
    limits.change(db, api.workspace.id, None, {"tokens_month": 5000})
    db.commit()
    assert "1,234" in danlu("usage")
    csv = danlu("usage", "--csv", "--by", "day").splitlines()
    assert len(csv) >= 2
    assert "1234" in csv[1]
    (line,) = json.loads(danlu("usage", "--json", "--by", "model"))["data"]
    assert line["prompt_tokens"] == 1234
    told = danlu("usage", "--limits")
    assert "tokens_month" in told
    assert "5,000" in told


def test_quotas_of_many(db, danlu):
    teams = [make_workspace(db, name=f"Team {number}").id for number in range(3)]
    db.commit()
    danlu("admin", "quotas", "set", "default", "-s", "queued_jobs=20", "-s", "storage_bytes=2GiB")
    amounts = ("-s", "tokens_month=none", "-s", "device_hours_month=1.5", "-s", "devices:H100=4")
    danlu("admin", "quotas", "set", *teams[:2], *amounts, "--until", "2999-12-31")
    listed = json.loads(danlu("admin", "quotas", "list", "--json"))["data"]
    found = {one["workspace"]: one for one in listed}
    first, last = found[teams[0]], found[teams[2]]
    assert (first["device_hours_month"], first["devices_by_model"]) == (1.5, {"H100": 4})
    assert first["limits"]["device_hours_month"]["until"].startswith("3000-01-01T00:00:00")
    assert (last["queued_jobs"], last["storage_bytes"]) == (20, 2 * 2**30)
    assert last["limits"]["queued_jobs"]["source"] == "platform"
    assert "2.0 GiB" in danlu("admin", "quotas", "list", teams[2])
    assert "queued_jobs=20" in danlu("admin", "quotas", "list")
    danlu("admin", "quotas", "set", "default", "-s", "queued_jobs=inherit")
    assert db.query(quota_tables.Quota).filter_by(name="queued_jobs").count() == 0
    assert danlu("admin", "quotas", "set", "nobody", "-s", "devices=1", fails=True) == ""


@pytest.mark.parametrize("wrong", ["devices", "devices=many", "=3"])
def test_what_is_no_amount_is_said_before_anything_is_sent(danlu, wrong):
    done = CliRunner().invoke(main.app, ["admin", "quotas", "set", "default", "-s", wrong])
    assert done.exit_code == 2


def test_money(db, api, danlu):
    team = make_workspace(db).id
    make_model(db, name="Small")
    db.commit()
    assert "12.5" in danlu("admin", "topup", team, "12.5", "--note", "invoice 7")
    danlu("admin", "topup", team, "--json", "--", "-2.5")
    assert "10.00 CNY" in danlu("admin", "balances")
    assert "H200" in danlu("admin", "prices", "--device", "H200", "--hour", "12.5")
    told = danlu("admin", "prices", "--model", "Small", "--input", "0.001", "--trained", "0.02")
    assert "Small" in told
    (found,) = [
        one
        for one in json.loads(danlu("admin", "prices", "--tokens", "--json"))["data"]
        if one["kind"] == "trained"
    ]
    assert float(found["amount"]) == 0.02


def test_members_list_no_quotas(db, api):
    assert api.get("/api/v1/quotas").status_code == 403
    teams = {make_workspace(db, name=f"T{number}").id for number in range(3)}
    api.user.is_platform_admin = True
    make_key(db, api.workspace, api.user)
    db.commit()
    seen, after = [], ""
    while True:
        page = api.get("/api/v1/quotas", params={"after": after, "limit": 2}).json()
        seen += [one["workspace"] for one in page["data"]]
        after = seen[-1]
        if not page["has_more"]:
            break
    assert teams < set(seen)
    assert len(seen) == len(set(seen))
    assert [one["name"] for one in api.get("/api/v1/quotas?q=T1").json()["data"]] == ["T1"]
