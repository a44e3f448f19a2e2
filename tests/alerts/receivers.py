"""Real servers that alerts are told to: one for HTTP, one for mail."""

import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from tests.stack import free_port


class Hook:
    """Answers with `status` and `answer`, and keeps what it got: path, headers, body."""

    def __init__(self) -> None:
        self.status, self.answer = 200, b"{}"
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {key.lower(): value for key, value in self.headers.items()}
                outer.got.append((self.path, headers, body))
                self.send_response(outer.status)
                self.send_header("content-length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook?token=t0p"
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Post:
    """An SMTP server that wants the sign-in `danlu`, `s3cret`, and keeps the mails."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], EmailMessage]] = []
        self.refuse: str | None = None
        self.controller = Controller(
            self,
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=self.authenticate,
            auth_required=True,
            auth_require_tls=False,
        )

    def authenticate(self, *args: Any) -> AuthResult:
        data = args[-1]
        right = isinstance(data, LoginPassword) and data.password == b"s3cret"
        return AuthResult(success=right, handled=False)

    async def handle_DATA(  # noqa: N802 - the library's name
        self, _server: Any, _session: Session, envelope: Envelope
    ) -> str:
        if self.refuse:
            return self.refuse
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append((list(envelope.rcpt_tos), message))
        return "250 OK"

    @property
    def port(self) -> int:
        server: Any = self.controller.server
        return int(server.sockets[0].getsockname()[1])
