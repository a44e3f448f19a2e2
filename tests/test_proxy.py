"""docs/nginx.conf, run for real: TLS in front, nothing buffered, the public address everywhere."""

import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import ROOT
from tests.stack import Stack, free_port, start, stop

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(360),
    pytest.mark.skipif(
        not NGINX and not os.environ.get("CI"), reason="needs nginx; .ci/run installs it"
    ),
]


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[Stack, str, Path]]:
    """A Danlu that is told its public address, nginx before it, and the certificate."""
    assert NGINX
    base = Path(tempfile.mkdtemp(prefix="danlu-proxy-", dir="/tmp"))
    base.chmod(0o711)
    inner, outer = free_port(), free_port()
    certificate, key = base / "danlu.crt", base / "danlu.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    server = (ROOT / "docs" / "nginx.conf").read_text()
    for old, new in {
        "127.0.0.1:8420": f"127.0.0.1:{inner}",
        "listen 443": f"listen 127.0.0.1:{outer}",
        "danlu.example.com": "localhost",
        "/etc/ssl/danlu.crt": str(certificate),
        "/etc/ssl/danlu.key": str(key),
    }.items():
        assert old in server
        server = server.replace(old, new)
    conf = base / "nginx.conf"
    conf.write_text(
        f"pid {base}/nginx.pid; error_log {base}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {base}/body;\n{server}\n}}\n"
    )
    public = f"https://localhost:{outer}"
    stack = start(base / "home", inner, DANLU_PUBLIC_URL=public, DANLU_TRUSTED_PROXIES="127.0.0.1")
    nginx = subprocess.Popen([NGINX, "-c", conf, "-g", "daemon off;"])
    try:
        yield stack, public, certificate
    finally:
        nginx.terminate()
        nginx.wait(20)
        stop(stack)
        shutil.rmtree(base)


@pytest.fixture
def browser(proxied: tuple[Stack, str, Path]) -> Iterator[httpx.Client]:
    _, public, certificate = proxied
    context = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=public, verify=context, timeout=30) as client:
        end = time.monotonic() + 20
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.ConnectError:
                pass
            assert time.monotonic() < end
            time.sleep(0.1)
        yield client


def sign_in(browser: httpx.Client, stack: Stack) -> httpx.Response:
    form = {"email": stack.email, "password": stack.password, "next": "/"}
    return browser.post("/login", data=form, headers={"origin": str(browser.base_url).rstrip("/")})


def test_sign_in_sets_a_secure_cookie_and_stays_on_the_public_address(
    browser: httpx.Client, proxied: tuple[Stack, str, Path]
) -> None:
    answer = sign_in(browser, proxied[0])
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()
    page = browser.get("/")
    assert page.status_code == 200


def test_another_origin_is_refused(browser: httpx.Client, proxied: tuple[Stack, str, Path]) -> None:
    sign_in(browser, proxied[0])
    answer = browser.post("/logout", headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 403


def test_a_spoofed_forwarding_header_does_not_choose_the_address(
    browser: httpx.Client, proxied: tuple[Stack, str, Path]
) -> None:
    headers = {"x-forwarded-host": "elsewhere.example", "x-forwarded-for": "10.9.9.9"}
    assert browser.get("/login", headers=headers).status_code == 200
    sign_in(browser, proxied[0])
    assert "10.9.9.9" not in browser.get("/account").text


def test_events_come_through_as_they_happen(
    browser: httpx.Client, proxied: tuple[Stack, str, Path]
) -> None:
    """The first events of a job that waits arrive while its stream stays open."""
    stack = proxied[0]
    with stack.api() as api:
        api.put(f"/api/v1/quotas/{stack.workspace}", json={"devices": 1}).raise_for_status()
        sample = next(
            one
            for one in api.get("/api/v1/datasets").json()["data"]
            if one["name"] == "reviews-train"
        )
        job = {
            "name": "stream",
            "model": "danlu-starter",
            "dataset": sample["id"],
            "stage": "sft",
            "method": "lora",
            "hyperparameters": {"max_steps": 500},
        }
        ids = [api.post("/api/v1/jobs", json=job).json()["id"] for _ in range(2)]
        headers = {"authorization": f"Bearer {stack.api_key}"}
        began = time.monotonic()
        with browser.stream("GET", f"/api/v1/jobs/{ids[1]}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("event: state"):
                    break
        assert time.monotonic() - began < 20
        for job_id in ids:
            api.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    for job_id in ids:
        assert stack.wait(f"/jobs/{job_id}")["state"] == "cancelled"
