"""HTTP to engines, from servers that say what they like."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.accounts.limits import NO_LIMITS
from app.gateway import service, streams, upstream, wire
from app.gateway.limits import Need
from app.gateway.metering import Tokens
from app.gateway.wire import Connection, Lost

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def talk(say: Say, test: Callable[[str, list[bytes]], Awaitable[None]]) -> None:
    """Run `test` with the address of a server that answers each request with `say`, and with what
    it was asked, once for each connection.
    """
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(b"")
        number = len(asked) - 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked[number] += head
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                asked[number] += await reader.readexactly(length)
                await say(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20), server:
            await test(f"http://127.0.0.1:{port}", asked)
        wire.close_all()

    asyncio.run(main())


async def post(address: str) -> Connection:
    return await wire.post(address, "/v1/x", {"authorization": "Bearer s"}, b'{"a":1}')


def saying(*pieces: bytes, pause: float = 0.0) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return say


def test_one_connection_serves_one_request_after_another() -> None:
    async def test(address: str, asked: list[bytes]) -> None:
        for _ in range(3):
            answer = await post(address)
            assert (answer.status, await answer.read()) == (200, b"hello")
            answer.close()
        host = address.removeprefix("http://").encode()
        one = b'POST /v1/x HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer s\r\ncontent-length: 7\r\n\r\n{"a":1}'
        assert asked == [one % host * 3]

    talk(saying(WHOLE), test)


def test_chunks_come_one_by_one_however_the_bytes_are_cut() -> None:
    whole = CHUNKED + chunk(b"one") + chunk(b"two") + chunk(b"")

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        assert [await answer.piece() for _ in range(3)] == [b"one", b"two", b""]
        answer.close()

    talk(saying(whole), test)
    talk(saying(CHUNKED, chunk(b"one"), chunk(b"two"), chunk(b""), pause=0.01), test)

    async def joined(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        assert await answer.read() == b"onetwo"
        answer.close()

    talk(saying(*(bytes([byte]) for byte in whole)), joined)


def test_a_taker_gets_what_came_before_it_and_all_that_comes() -> None:
    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        assert await answer.piece() == b"0"
        await asyncio.sleep(0.05)
        taken: list[bytes] = []
        await answer.give(taken.extend)
        assert taken == [b"%d" % number for number in range(1, 20)]
        answer.close()
        assert len(wire.idle[address]) == 1

    talk(saying(CHUNKED, *(chunk(b"%d" % n) for n in range(20)), chunk(b""), pause=0.01), test)


def test_what_a_taker_raises_is_raised_and_the_connection_is_broken_off() -> None:
    def refuse(_: list[bytes]) -> None:
        raise ZeroDivisionError

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        await answer.piece()
        with pytest.raises(ZeroDivisionError):
            await answer.give(refuse)
        answer.close()
        assert wire.idle == {}

    talk(saying(CHUNKED, chunk(b"one"), chunk(b"two"), pause=0.05), test)


def test_a_taker_gets_what_came_before_nonsense() -> None:
    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        assert await answer.piece() == b"one"
        taken: list[bytes] = []
        with pytest.raises(Lost):
            await asyncio.wait_for(answer.give(taken.extend), 5)
        assert taken == [b"two"]
        answer.close()
        assert wire.idle == {}

    talk(saying(CHUNKED + chunk(b"one"), chunk(b"two") + b"nonsense\r\n", pause=0.05), test)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhel",
        CHUNKED + chunk(b"one") + b"5\r\nhel",
        CHUNKED + chunk(b"one"),
        CHUNKED + b"no length\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_lost(said: bytes) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async def test(address: str, _asked: list[bytes]) -> None:
        with pytest.raises(Lost) as caught:
            await (await post(address)).read()
        assert caught.value.given
        assert wire.idle == {}

    talk(say, test)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        assert await answer.read() == b"hello"
        answer.close()

    talk(say, test)


def test_nobody_there_has_had_nothing() -> None:
    async def test() -> None:
        with pytest.raises(Lost) as caught:
            await post("http://127.0.0.1:9")
        assert not caught.value.given

    asyncio.run(test())


def test_whoever_lets_go_early_breaks_it_off() -> None:
    gone = asyncio.Event()

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        try:
            while True:
                writer.write(chunk(b"one"))
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        await answer.piece()
        answer.close()
        await gone.wait()
        assert wire.idle == {}

    talk(say, test)


def test_nothing_more_is_read_while_nobody_takes_it() -> None:
    sent = 0

    async def say(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(chunk(b"x" * 65_536))
            await writer.drain()
            sent += 1
        writer.write(chunk(b""))

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        await asyncio.sleep(0.5)
        assert sent < 350  # what the kernel holds, and not more
        assert answer.held < 2 * wire.MOST_HELD
        assert len(await answer.read()) == 400 * 65_536
        answer.close()

    talk(say, test)


def test_what_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEPT_ALIVE", 0.05)

    async def test(address: str, asked: list[bytes]) -> None:
        for _ in range(2):
            answer = await post(address)
            await answer.read()
            answer.close()
            await asyncio.sleep(0.1)
        assert len(asked) == 2

    talk(saying(WHOLE), test)


class Written:
    """A body that notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []

    def write(self, pieces: list[bytes]) -> bool:
        self.calls.append(pieces)
        return False

    async def drain(self) -> None: ...


def event(number: int) -> bytes:
    usage = b'"usage":{"prompt_tokens":9,"completion_tokens":%d}' % number
    return b'data: {"choices":[{"delta":{"content":"}"}}],%b}\n\n' % usage


def test_what_came_together_is_written_together_each_event_by_itself() -> None:
    """Usage is cut out of each, and what came last is left for the end of the answer."""
    begun, done = [event(1), event(2)], b"data: [DONE]\n\n"
    cut = b'data: {"choices":[{"delta":{"content":"}"}}]}\n\n'
    later = [event(3), event(4)[:30], event(4)[30:], event(5), done]

    async def test(address: str, _asked: list[bytes]) -> None:
        answer = await post(address)
        caller = service.Caller("ws", "usr", None, NO_LIMITS)
        exchange = service.Exchange(caller, "mood", Need(9, 1, 1))
        exchange.events = upstream.Events(answer)
        exchange.first = await upstream.first(exchange.events)
        stream, body = streams.Stream(exchange, {}), Written()
        assert stream.begin() == cut
        last = await stream.into(body)
        assert b"".join(body.calls[-1]) + last == cut * 3 + done
        assert [one for one in body.calls[-1] if one] == [cut] * 3
        assert last == done
        assert exchange.tokens() == Tokens(9, 5)
        assert exchange.completed

    together = b"".join(chunk(one) for one in later) + chunk(b"")
    first = CHUNKED + b"".join(chunk(one) for one in begun)
    talk(saying(first, together, pause=0.05), test)
