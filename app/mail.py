"""One mail, by SMTP (RFC 5321). Whose server, and with which sign-in, is the platform's setting."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Literal

from app.errors import N_, DomainError

SECONDS = 15.0  # for each step of the conversation
Security = Literal["starttls", "tls", "none"]


class Unsent(DomainError):
    """No server took the mail; says why. `for_good`: trying again does not help."""

    status = 503
    code = "mail_unsent"
    for_good = False


@dataclass(frozen=True)
class Server:
    """Who takes mails, and in whose name."""

    host: str
    port: int
    security: Security
    sender: str
    user: str = ""
    password: str = ""


def send(server: Server, to: Sequence[str], subject: str, text: str) -> None:
    """Plain text to all of `to`, who do not see each other where there are several. Raises Unsent."""
    message = EmailMessage()
    message["From"] = server.sender
    message["To"] = to[0] if len(to) == 1 else server.sender
    message["Subject"] = " ".join(subject.split())  # a line break would begin another header
    message["Date"] = formatdate(localtime=False)
    message["Message-ID"] = make_msgid(domain=server.sender.rpartition("@")[2].rstrip("> ") or None)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody answers it by machine
    message.set_content(text)
    try:
        with connected(server) as line:
            if server.user:
                line.login(server.user, server.password)
            refused = line.send_message(message, server.sender, list(to))
    except smtplib.SMTPAuthenticationError as error:
        raise for_good(N_("The mail server refuses the sign-in: %(why)s"), said(error)) from None
    except smtplib.SMTPRecipientsRefused as error:
        raise for_good(
            N_("The mail server refuses every address: %(why)s"),
            "; ".join(f"{one}: {code}" for one, (code, _) in error.recipients.items()),
        ) from None
    except smtplib.SMTPNotSupportedError as error:
        raise for_good(N_("The mail server cannot do this: %(why)s"), str(error)) from None
    except smtplib.SMTPResponseException as error:
        unsent = Unsent(N_("The mail server refuses the mail: %(why)s"), why=said(error))
        unsent.for_good = 500 <= error.smtp_code < 600
        raise unsent from None
    except ssl.SSLError as error:
        raise Unsent(
            N_("The mail server speaks no TLS that this machine trusts: %(why)s"),
            why=error.reason or str(error),
        ) from None
    except (OSError, smtplib.SMTPException) as error:
        raise Unsent(
            N_("The mail server %(host)s does not answer: %(why)s"),
            host=server.host,
            why=str(error) or type(error).__name__,
        ) from None
    if refused:
        raise for_good(N_("The mail server refuses some addresses: %(why)s"), ", ".join(refused))


def connected(server: Server) -> smtplib.SMTP:
    """A conversation, encrypted as the server is set to be. Raises what smtplib raises."""
    if server.security == "tls":
        return smtplib.SMTP_SSL(
            server.host, server.port, timeout=SECONDS, context=ssl.create_default_context()
        )
    line = smtplib.SMTP(server.host, server.port, timeout=SECONDS)
    if server.security == "starttls":
        try:
            line.starttls(context=ssl.create_default_context())
        except BaseException:
            line.close()
            raise
    return line


def for_good(message: str, why: str) -> Unsent:
    unsent = Unsent(message, why=why)
    unsent.for_good = True
    return unsent


def said(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error
    words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return f"{error.smtp_code} {words}"[:300]
