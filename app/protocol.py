"""How web reads HTTP: uvicorn's httptools protocol, without one of its surprises."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# What a client adds that would rather speak HTTP/2, as Java's does by default (RFC 7540, 3.2).
OFFER = re.compile(rb"\r\n(?:upgrade: *h2c|http2-settings:[^\r\n]*)(?=\r\n)", re.IGNORECASE)


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

    def on_message_complete(self) -> None:
        self.in_message = False
        super().on_message_complete()
