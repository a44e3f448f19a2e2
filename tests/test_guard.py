"""What every request passes before any route."""

import gzip

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from app import failures, guard
from app.config import settings
from app.dashboard.openapi import describe
from app.main import UNZIPPED, app
from app.queue import redis

CROSS = {"origin": "https://evil.example"}
OWN = {"origin": settings.url}


def mock(**more) -> TestClient:
    """A small application behind the same guard, for what no real route does."""
    small = FastAPI(
        middleware=[
            Middleware(guard.Trace),
            Middleware(guard.Proxies),
            Middleware(GZipMiddleware, exclude_content_types=UNZIPPED),
            Middleware(guard.Catch),
            Middleware(guard.Hosts),
            Middleware(guard.Bodies),
            Middleware(guard.SameOrigin),
        ]
    )
    failures.install(small)

    @small.get("/api/fails")
    def fails():
        raise RuntimeError("the secret of the house")

    @small.get("/seen")
    def seen(request: Request):
        return {"ip": request.client.host, "url": str(request.url)}

    @small.post("/echo")
    async def echo(request: Request):
        return {"bytes": len(await request.body())}

    @small.get("/events")
    def events():
        return StreamingResponse(
            (f"data: {'x' * 900}\n\n" for _ in range(3)), 200, {}, "text/event-stream"
        )

    @small.get("/long")
    def long():
        return "x" * 5000

    return TestClient(small, base_url=settings.url, follow_redirects=False, **more)


# -- hosts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:8420", "localhost."]
)
def test_loopback_names_are_ours(host):
    assert mock().get("/seen", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "", "127.0.0.1.evil.example", "192.168.1.5", "[::1", "a@localhost@b"]
)
def test_a_foreign_name_opens_nothing(host):
    response = mock().get("/seen", headers={"host": host})
    assert response.status_code == 400
    assert "x-request-id" in response.headers


def test_the_public_name_is_ours(monkeypatch):
    monkeypatch.setattr(settings, "public_url", "https://danlu.example.com")
    assert mock().get("/seen", headers={"host": "danlu.example.com"}).status_code == 200
    assert mock().get("/seen", headers={"host": "other.example.com"}).status_code == 400


def test_bound_to_every_interface_any_address_is_ours_but_no_name(monkeypatch):
    monkeypatch.setattr(settings, "host", "0.0.0.0")
    assert mock().get("/seen", headers={"host": "192.168.1.5:8420"}).status_code == 200
    assert mock().get("/seen", headers={"host": "evil.example"}).status_code == 400


def test_a_nul_in_the_address():
    assert mock().get("/seen?q=%00").status_code == 400
    assert mock().get("/seen%00").status_code == 400


# -- proxies -----------------------------------------------------------------------------

SPOOFED = {
    "x-forwarded-for": "6.6.6.6, 203.0.113.7, 10.0.0.8",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "localhost:1234",
}


def test_forwarded_headers_of_a_stranger_count_for_nothing():
    seen = mock(client=("127.0.0.1", 1)).get("/seen", headers=SPOOFED).json()
    assert seen == {"ip": "127.0.0.1", "url": f"{settings.url}/seen"}


def test_of_a_trusted_proxy_they_count(monkeypatch):
    monkeypatch.setattr(settings, "trusted_proxies", "127.0.0.1, 10.0.0.0/8")
    seen = mock(client=("127.0.0.1", 1)).get("/seen", headers=SPOOFED).json()
    assert seen == {"ip": "203.0.113.7", "url": "https://localhost:1234/seen"}


# -- bodies ------------------------------------------------------------------------------


def test_an_upload_is_refused_by_its_declared_length(monkeypatch):
    monkeypatch.setattr(settings, "max_upload_mb", 1)

    def never_read():
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(2**20 + 1)}
    response = mock().post("/echo", content=never_read(), headers=headers)
    assert response.status_code == 413
    assert "1 MiB" in response.text
    assert response.headers["connection"] == "close"


def test_json_has_a_smaller_limit():
    headers = {"content-type": "application/json", "content-length": str(guard.SMALL_BODY + 1)}
    response = mock().post("/echo", content=iter([b""]), headers=headers)
    assert response.status_code == 413
    assert response.json()["code"] == "too_large"


def test_a_body_without_a_length_is_counted(monkeypatch):
    monkeypatch.setattr(guard, "SMALL_BODY", 1000)
    assert mock().post("/echo", content=iter([b"x" * 600])).json() == {"bytes": 600}
    assert mock().post("/echo", content=iter([b"x" * 600] * 2)).status_code == 413


def test_a_length_that_is_no_number():
    assert mock().post("/echo", content=b"x", headers={"content-length": "many"}).status_code == 400


# -- other sites -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200),
        (CROSS, 403),
        ({"origin": "null"}, 403),
        ({"origin": settings.url + ".evil.example"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", **OWN}, 403),
        ({}, 200),  # no browser, no cookie
        ({"cookie": "a=b"}, 403),  # no proof of its origin, and a cookie
        ({"cookie": "a=b", "authorization": "Bearer dk-x", **CROSS}, 200),  # a key is proof
        ({"cookie": "a=b", "authorization": "Basic eA==", **CROSS}, 403),
    ],
)
def test_unsafe_requests_come_from_our_pages(headers, status):
    assert mock().post("/echo", headers=headers).status_code == status
    assert mock().get("/seen", headers=headers).status_code == 200


def test_behind_a_tls_proxy_the_public_origin_is_ours(monkeypatch):
    monkeypatch.setattr(settings, "public_url", "https://danlu.example.com")
    headers = {"host": "danlu.example.com", "origin": "https://danlu.example.com"}
    assert mock().post("/echo", headers=headers).status_code == 200


def test_a_sign_in_cannot_be_forged_from_elsewhere(anonymous):
    form = {"email": "a@b.c", "password": "x"}
    assert anonymous.post("/login", data=form, headers=CROSS).status_code == 403
    assert not redis().keys("signin:*")


# -- headers -----------------------------------------------------------------------------


def test_headers_of_every_answer(anonymous):
    for path in ("/login", "/static/console.css", "/nothing", "/api/nothing", "/v1/models"):
        headers = anonymous.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["server-timing"].startswith("app;dur=")
        assert headers["x-request-id"].startswith("req-")


def test_pages_are_not_stored_and_static_files_for_ever(anonymous):
    def cached(path):
        return anonymous.get(path).headers["cache-control"]

    assert cached("/login") == "no-store"
    assert cached("/static/console.css?v=123") == "public, max-age=31536000, immutable"
    assert cached("/static/vendor/htmx-4.0.1/htmx.min.js").endswith("immutable")
    assert cached("/static/console.css") == "no-cache"
    assert cached("/static/nothing.css?v=1") == "no-cache"


def test_what_is_zipped():
    client = mock()
    assert client.get("/long").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/events").headers
    with client.stream("GET", "/long", headers={"accept-encoding": "gzip"}) as response:
        assert b"xxx" in gzip.decompress(b"".join(response.iter_raw()))


# -- faults of ours ----------------------------------------------------------------------


def test_nobody_sees_a_trace():
    with capture_logs() as log:
        response = mock().get("/api/fails")
    assert response.status_code == 500
    body = response.json()
    assert body["code"] == "internal_error"
    assert body["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text
    assert "the secret of the house" in str(log)  # the log has it


def test_the_schema_lists_what_the_api_has():
    paths = describe(app)["paths"]
    assert "/api/v1/me" in paths
    assert "/login" not in paths
