"""What is fetched for users, from where, and what is not."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app import addresses, fetching
from app.addresses import Interrupted, Refused
from app.config import settings
from app.errors import TooLarge
from tests.stand_in_hub import Hub, serving

MIB = 2**20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server on this machine, which the settings allow."""
    with serving() as hub:
        monkeypatch.setattr(settings, "fetch_allow", f"127.0.0.1:{hub.port}")
        yield hub


def named(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """A name server that knows these hosts; the names it was asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **how: Any) -> Any:
        name = host.replace(".", "_")
        if name not in hosts:
            return real(host, port, *args, **how)
        asked.append(host)
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port),
            )
            for one in hosts[name]
        ]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return asked


def refused(url: str, **how: Any) -> str:
    with pytest.raises(Refused) as error:
        fetching.read(url, limit=MIB, **how)
    assert error.value.message
    return error.value.code


# -- addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
    100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fc00::1 fd00:ec2::254 ff02::1
    ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::a00:1
    2002:7f00:1:: 2002:a00:1:: 2001:0:1::1 2001:db8::1 100::1 ::ffff:0:127.0.0.1""".split(),
)
def test_what_is_not_public(address: str) -> None:
    assert not addresses.public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", "8.8.8.8 1.1.1.1 114.114.114.114 2606:4700:4700::1111".split())
def test_what_is_public(address: str) -> None:
    assert addresses.public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    """127.0.0.1 localhost localhost. LOCALHOST 127.1 2130706433 0x7f000001 0177.0.0.1 [::1] 0
    [::ffff:127.0.0.1] [0:0:0:0:0:ffff:7f00:1] 169.254.169.254""".split(),
)
def test_this_machine_by_any_name(host: str) -> None:
    assert refused(f"http://{host}/") in {"address.private", "address.unknown"}
    assert refused(f"http://{host}:5432/") in {"address.private", "address.unknown"}


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://example.com/a", "address.scheme"),
        ("file:///etc/passwd", "address.scheme"),
        ("gopher://example.com/", "address.scheme"),
        ("javascript:alert(1)", "address.scheme"),
        ("//example.com/a", "address.scheme"),
        ("/etc/passwd", "address.scheme"),
        ("", "address.scheme"),
        ("http://user:secret@example.com/", "address.credentials"),
        ("http://user@127.0.0.1/", "address.credentials"),
        ("http://@example.com/", "address.credentials"),
        ("http:///a", "address.invalid"),
        ("http://exa mple.com/", "address.invalid"),
        ("http://example.com\\@127.0.0.1/", "address.invalid"),
        ("http://example.com/\r\nx: y", "address.invalid"),
        ("http://example.com/\0", "address.invalid"),
        ("http://[::1", "address.invalid"),
        ("http://[fe80::1%25eth0]/", "address.invalid"),
        ("http://example.com:99999/", "address.invalid"),
        ("http://" + "a" * 70 + ".com/", "address.invalid"),
        ("http://no-such-host.invalid/", "address.unknown"),
    ],
)
def test_what_is_no_address(url: str, code: str) -> None:
    assert refused(url) == code


def test_what_is_asked_for_is_what_was_checked() -> None:
    target = addresses.parse("HTTP://Exämple.COM.:8080/数据 集?q=ä&x=%20#part".replace(" ", "%20"))
    assert target.host == "xn--exmple-cua.com"
    assert target.url == (
        "http://xn--exmple-cua.com:8080/%E6%95%B0%E6%8D%AE%20%E9%9B%86?q=%C3%A4&x=%20"
    )
    assert addresses.parse("https://[2606:4700::1]/").url == "https://[2606:4700::1]/"


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ("127.0.0.1", True),
        ("127.0.0.0/8", True),
        ("hub.corp", True),
        ("HUB.corp.", True),
        ("hub.corp:80", True),
        ("127.0.0.0/8:80", True),
        ("hub.corp:81", False),
        ("127.0.0.0/8:81", False),
        ("corp", False),
        ("10.0.0.0/8", False),
        ("::1", False),
        ("[::1]:80", False),
        ("*", False),
    ],
)
def test_what_the_settings_allow(entry: str, passes: bool) -> None:
    where = ipaddress.ip_address("127.0.0.1")
    assert addresses.permits(entry, "hub.corp", where, 80) is passes


def test_ipv6_is_allowed_by_its_own_words() -> None:
    here = ipaddress.ip_address("::1")
    assert addresses.permits("[::1]:80", "::1", here, 80)
    assert addresses.permits("::1", "::1", here, 80)
    assert addresses.permits("fd00::/8", "x", ipaddress.ip_address("fd12::1"), 80)
    assert not addresses.permits("[::1]:81", "::1", here, 80)


def test_a_name_that_leads_inside(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, evil_test=["127.0.0.1"], mixed_test=["10.0.0.1", "::ffff:10.0.0.1"])
    monkeypatch.setattr(settings, "fetch_allow", "")
    assert refused(f"http://evil.test:{hub.port}/") == "address.private"
    assert refused("http://mixed.test/") == "address.private"
    assert hub.seen == []


def test_a_name_is_resolved_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers differently the second time is not asked a second time."""
    hub.plain["/a"] = b"hello"
    asked = named(monkeypatch, hub_test=["127.0.0.1"])
    monkeypatch.setattr(settings, "fetch_allow", f"hub.test:{hub.port}")
    answer, body = fetching.read(f"http://hub.test:{hub.port}/a", limit=MIB)
    assert body == b"hello"
    assert asked == ["hub.test"]
    assert hub.asked("/a")[0]["host"] == f"hub.test:{hub.port}"
    assert answer.name == "a"


def test_addresses_that_are_not_public_are_passed_over(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, hub_test=["10.0.0.1", "127.0.0.1"])
    assert addresses.resolve("hub.test", hub.port) == ["127.0.0.1"]


# -- fetching ----------------------------------------------------------------------------


def test_a_file_and_what_is_said_of_it(hub: Hub) -> None:
    hub.plain["/a.jsonl"] = b"x" * 200_000
    with fetching.stream(f"{hub.url}/a.jsonl?token=1", limit=MIB) as answer:
        assert [answer.size, answer.offset, answer.resumable] == [200_000, 0, True]
        assert answer.validator.startswith('"')
        assert answer.name == "a.jsonl"
        assert b"".join(answer.chunks) == b"x" * 200_000
    head = hub.asked("/a.jsonl")[0]
    assert head["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "range"} & set(head)


def test_the_rest_of_a_file(hub: Hub) -> None:
    hub.plain["/a"] = b"0123456789" * 1000
    whole, _ = fetching.read(f"{hub.url}/a", limit=MIB)
    how: dict[str, Any] = {"limit": MIB, "offset": 9000, "validator": whole.validator}
    rest, body = fetching.read(f"{hub.url}/a", **how)
    assert [rest.offset, rest.size, body] == [9000, 10_000, b"0123456789" * 100]
    rest, body = fetching.read(f"{hub.url}/a", **how | {"offset": 10_000})
    assert [rest.offset, rest.size, body] == [10_000, 10_000, b""]
    rest, body = fetching.read(f"{hub.url}/a", **how | {"offset": 20_000})  # it has become shorter
    assert [rest.offset, len(body)] == [0, 10_000]
    hub.plain["/a"] = b"other" * 2000  # another file now
    rest, body = fetching.read(f"{hub.url}/a", **how)
    assert [rest.offset, body] == [0, b"other" * 2000]
    hub.ranges = False
    rest, body = fetching.read(f"{hub.url}/a", **how)
    assert [rest.offset, rest.resumable, len(body)] == [0, False, 10_000]


def test_redirects_are_followed_and_looked_at(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.plain["/b"] = b"there"
    hub.redirects |= {
        "/a": "/b",
        "/inside": "http://169.254.169.254/latest/meta-data/",
        "/scheme": "file:///etc/passwd",
        "/user": f"http://user:x@127.0.0.1:{hub.port}/b",
        "/port": f"http://127.0.0.1:{hub.port + 1}/b",
        "/loop": "/loop",
        "/other": f"http://other.test:{hub.port}/b",
    }
    answer, body = fetching.read(f"{hub.url}/a", limit=MIB)
    assert [answer.url, body] == [f"{hub.url}/b", b"there"]
    assert refused(f"{hub.url}/inside") == "address.private"
    assert refused(f"{hub.url}/scheme") == "address.scheme"
    assert refused(f"{hub.url}/user") == "address.credentials"
    assert refused(f"{hub.url}/port") == "address.private"
    assert refused(f"{hub.url}/loop") == "address.loop"
    assert len(hub.asked("/loop")) == fetching.REDIRECTS + 1
    hub.seen.clear()
    named(monkeypatch, other_test=["127.0.0.1"])
    monkeypatch.setattr(settings, "fetch_allow", "127.0.0.1, other.test")
    fetching.read(f"{hub.url}/other", limit=MIB, headers={"authorization": "Bearer x"})
    assert [head.get("authorization") for _, head in hub.seen] == ["Bearer x", None]


def test_no_proxy_of_this_machine(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    hub.plain["/a"] = b"direct"
    assert fetching.read(f"{hub.url}/a", limit=MIB)[1] == b"direct"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, Refused, "address.login"),
        (403, Refused, "address.login"),
        (404, Refused, "address.missing"),
        (410, Refused, "address.missing"),
        (400, Refused, "address.status"),
        (204, Refused, "address.status"),
        (304, Refused, "address.status"),
        (429, Interrupted, "address.status"),
        (500, Interrupted, "address.status"),
        (503, Interrupted, "address.status"),
    ],
)
def test_what_is_no_file(hub: Hub, status: int, kind: Any, code: str) -> None:
    hub.statuses["/a"] = status
    with pytest.raises(kind) as error:
        fetching.read(f"{hub.url}/a", limit=MIB)
    assert error.value.code == code


def test_too_much_is_refused_at_once_or_where_it_becomes_too_much(hub: Hub) -> None:
    hub.plain["/a"] = b"x" * 300_000
    with pytest.raises(TooLarge), fetching.stream(f"{hub.url}/a", limit=299_999):
        pass
    hub.sized = False
    taken: list[bytes] = []
    with fetching.stream(f"{hub.url}/a", limit=100_000) as answer:
        assert answer.size is None
        with pytest.raises(TooLarge):
            taken.extend(answer.chunks)
    assert len(b"".join(taken)) <= 100_000


def test_a_broken_connection(hub: Hub) -> None:
    hub.plain["/a"] = b"x" * 300_000
    hub.breaks = [100_000]
    taken: list[bytes] = []
    address = f"{hub.url}/a"
    with fetching.stream(address, limit=MIB) as answer, pytest.raises(Interrupted) as error:
        taken.extend(answer.chunks)
    assert [error.value.code, len(b"".join(taken))] == ["address.cut", 100_000]


def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(settings, "fetch_allow", "127.0.0.1")
    with pytest.raises(Interrupted) as error:
        fetching.read(f"http://127.0.0.1:{port}/", limit=MIB)
    assert error.value.code == "address.unreachable"


def test_silence_and_dripping_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.plain["/a"] = b"x" * 655_360
    hub.pause = 0.3
    started = time.monotonic()
    with pytest.raises(Interrupted) as error:
        fetching.read(f"{hub.url}/a", limit=MIB, seconds=0.7)
    assert error.value.code == "address.timeout"
    assert time.monotonic() - started < 1.5
    hub.pause = 1.0
    monkeypatch.setattr(fetching, "SILENCE", 0.1)
    with pytest.raises(Interrupted):
        fetching.read(f"{hub.url}/a", limit=MIB)


def test_the_callers_own_errors_stay_their_own(hub: Hub) -> None:
    hub.plain["/a"] = b"x" * 10
    with pytest.raises(OSError, match="disk"), fetching.stream(f"{hub.url}/a", limit=MIB):
        raise OSError("disk")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a b.jsonl"', "a b.jsonl"),
        ("attachment; filename=a.jsonl", "a.jsonl"),
        ("attachment; filename=x; filename*=UTF-8''%E6%95%B0%E6%8D%AE.jsonl", "x"),
        ("attachment; filename*=UTF-8''%E6%95%B0%E6%8D%AE.jsonl; filename=x", "数据.jsonl"),
        ("inline", "c.json"),
    ],
)
def test_the_name_of_a_file(disposition: str, name: str) -> None:
    answer = fetching.Answer(
        "http://x/b/c.json?d", {"content-disposition": disposition}, 0, None, iter(())
    )
    assert answer.name == name
