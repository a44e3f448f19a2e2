"""How webhooks are signed, after https://www.standardwebhooks.com: HMAC-SHA256 of
"{webhook-id}.{webhook-timestamp}.{body}", so libraries exist that check it.
"""

import base64
import hashlib
import hmac
import secrets


def new_key() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Of one message, by one key of `new_key`."""
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(raw, content, hashlib.sha256)).decode()
