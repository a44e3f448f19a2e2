"""How web speaks HTTP: uvicorn's httptools protocol, without one of its surprises, and with a short way
for the bodies of streams.
"""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# What a client adds that would rather speak HTTP/2, as Java's does by default (RFC 7540, 3.2).
OFFER = re.compile(rb"\r\n(?:upgrade: *h2c|http2-settings:[^\r\n]*)(?=\r\n)", re.IGNORECASE)


BODY = "danlu.body"  # of a request's scope, under "extensions"


class Body:
    """The body of the answer that a request is given, past everything that wraps `send`: for the
    pieces between the first, by which the head is out, and the last.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle

    def write(self, pieces: list[bytes]) -> bool:
        """Each as a chunk of its own, all in one call to the kernel; True if no more should come before
        `drain`. Whoever has left gets nothing; `send` is not called meanwhile.
        """
        cycle = self.cycle
        if cycle.disconnected:
            return False
        data = b""
        for piece in pieces:
            if piece:
                data += b"%x\r\n%b\r\n" % (len(piece), piece) if cycle.chunked_encoding else piece
        if data:
            cycle.transport.write(data)
        return cycle.flow.write_paused

    async def drain(self) -> None:
        await self.cycle.flow.drain()


class Protocol(HttpToolsProtocol):
    """Answers an offer of h2c in HTTP/1.1, which RFC 9110, 7.8 lets a server do.

    The parser underneath takes whatever follows such a head for another protocol, so the body
    of the request would be lost. Offers come in the first segment of a request, heads being
    written at once; nothing is looked for inside a body.
    """

    in_message = False

    def data_received(self, data: bytes) -> None:
        if not self.in_message and b"h2c" in data:
            head, end, body = data.partition(b"\r\n\r\n")
            data = OFFER.sub(b"", head + b"\r\n") + end[2:] + body
        super().data_received(data)

    def on_message_begin(self) -> None:
        self.in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["extensions"] = {BODY: {"body": Body(self.cycle)}}

    def on_message_complete(self) -> None:
        self.in_message = False
        super().on_message_complete()
