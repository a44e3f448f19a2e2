"""Whatever goes wrong is told in the form that the clients of the path read."""

import jsonschema_rs
import pytest

from app.dashboard.openapi import describe
from app.main import app

FORMS = {
    "/api/v1": ("ProblemDetails", "application/problem+json", "/jobs"),
    "/v1": ("OpenAIError", "application/json", "/fine_tuning/jobs"),
    "/dashscope/api/v1": ("DashScopeError", "application/json", "/fine-tunes"),
}


def told(got, form, media):
    schema = describe(app)
    whole = schema["components"]["schemas"][form] | {"components": schema["components"]}
    assert got.headers["content-type"] == media
    jsonschema_rs.validate(whole, got.json())
    return got.json()


@pytest.mark.parametrize("base", FORMS)
def test_every_error_has_its_form(api, base, monkeypatch):
    form, media, noun = FORMS[base]
    key = dict(api.headers)
    wrong = {"authorization": "Bearer dk-wrong"}
    for status, got in (
        (404, api.get(f"{base}/nowhere/at/all")),
        (404, api.get(f"{base}{noun}/nothing")),
        (405, api.patch(f"{base}{noun}", json={})),
        (401, api.get(f"{base}{noun}", headers=wrong)),
        (413, api.post(f"{base}{noun}", content=b"", headers=key | {"content-length": str(2**40)})),
        (422 if form == "ProblemDetails" else 400, api.post(f"{base}{noun}", json={})),
        (422 if form == "ProblemDetails" else 400, api.post(f"{base}{noun}", content=b"{")),
        (422 if form == "ProblemDetails" else 400, api.get(f"{base}{noun}", params={"limit": "x", "page_no": "x"})),
    ):  # fmt: skip
        assert got.status_code == status, got.text
        told(got, form, media)

    def broken(*_args, **_kwargs):
        raise RuntimeError("never seen by anybody")

    monkeypatch.setattr("app.accounts.auth.principal_of_key", broken)
    got = api.get(f"{base}{noun}")
    assert got.status_code == 500
    assert "never seen" not in got.text
    told(got, form, media)


def test_a_problem_says_what_it_is(api):
    got = api.patch("/api/v1/jobs", json={}).json()
    assert (got["status"], got["code"], got["type"]) == (405, "method_not_allowed", "about:blank")
    assert got["request_id"].startswith("req-")
    said = api.get("/api/v1/jobs/nothing", headers={"accept-language": "zh"}).json()
    assert said["code"] == "not_found"
    assert not said["detail"].isascii()
