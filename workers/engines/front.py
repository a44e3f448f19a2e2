"""The front of the transformers engine: an ASGI application around transformers' own.

It asks for the secret, says what the server cannot do instead of letting it be ignored, and
gives answers the shape that OpenAI's clients expect. It imports no torch, so it is tested without.
"""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app.models.chat_template import present

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PASSED = {
    CHAT: {"messages", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p"},
    TEXT: {"prompt", "stream", "max_tokens", "temperature", "top_p"},
}
# What would change the answer and cannot be done, with the value that changes nothing.
REFUSED: dict[str, Any] = {
    "logprobs": False, "top_logprobs": 0, "stop": [], "stop_token_ids": [], "logit_bias": {},
    "min_tokens": 0, "min_p": 0, "presence_penalty": 0, "frequency_penalty": 0,
    "repetition_penalty": 1, "suffix": "", "echo": False, "tools": [], "tool_choice": "none",
    "functions": [], "include_stop_str_in_output": False, "skip_special_tokens": True,
}  # fmt: skip
RANGES: dict[str, tuple[type | tuple[type, ...], float, float]] = {
    "temperature": ((int, float), 0, 2),
    "top_p": ((int, float), 0.000001, 1),
    "top_k": (int, -1, 2**31),
    "max_tokens": (int, 1, 2**31),
    "max_completion_tokens": (int, 1, 2**31),
}
MOST_BODY = 16 * 2**20  # bytes


class Refused(Exception):
    """An answer in OpenAI's shape: status, message, the field it is about."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class Front:
    """`server` is transformers' application; `name` is what callers call the model."""

    def __init__(
        self,
        server: Any,
        *,
        name: str,
        model: str,
        secret: str,
        max_model_len: int,
        chats: bool,
        remember: Callable[[dict[str, Any]], None],
    ) -> None:
        self.server = server
        self.name = name
        self.model = model
        self.secret = secret.encode()
        self.max_model_len = max_model_len
        self.chats = chats
        self.remember = remember
        self.tokens = 0  # generated so far
        self.prompted = 0  # tokens of prompts so far
        self.running = 0  # requests in work

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.server(scope, receive, send)
            return
        try:
            await self.answer(scope, receive, send)
        except Refused as error:
            await reply(send, error.status, wrong(str(error), error.param, error.status))

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if (method, path) == ("GET", "/health"):
            await self.server(scope, receive, send)
            return
        self.check_secret(scope)
        if (method, path) == ("GET", "/v1/models"):
            await reply(send, 200, {"object": "list", "data": [self.card()]})
        elif (method, path) == ("GET", "/metrics"):
            await reply(send, 200, self.figures())
        elif method == "POST" and path in PASSED:
            await self.complete(scope, receive, send)
        else:
            raise Refused(404, "There is nothing here.")

    def check_secret(self, scope: Message) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.secret):
            raise Refused(401, "The key is wrong.")

    def card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "danlu",
            "max_model_len": self.max_model_len,
        }

    def figures(self) -> str:
        """In Prometheus' text format."""
        return (
            f"danlu:generation_tokens_total {self.tokens}\n"
            f"danlu:prompt_tokens_total {self.prompted}\n"
            f"danlu:num_requests_running {self.running}\n"
        )

    async def complete(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await read(receive)
        passed = self.check(scope["path"], body)
        self.remember(body)
        self.running += 1
        try:
            await self.ask(scope, receive, send, body, passed)
        finally:
            self.running -= 1

    async def ask(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        body: dict[str, Any],
        passed: dict[str, Any],
    ) -> None:
        answer = Answer(self, send, body)
        asking = asyncio.ensure_future(
            self.server(scope, once(json.dumps(passed).encode(), receive), answer.send)
        )
        if not passed.get("stream"):
            leaving = asyncio.ensure_future(receive())
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if not asking.done():
                asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

    def check(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body as transformers may see it. Raises Refused, naming the field."""
        if body.get("model") not in (None, self.name):
            raise Refused(404, f"The model {str(body['model'])[:100]!r} is not served here.")
        if path == CHAT and not self.chats:
            raise Refused(400, "This model has no chat template. Use /v1/completions.")
        for name in ("n", "best_of"):
            if body.get(name) not in (None, 1):
                raise Refused(400, f"This engine gives one answer: {name} must be 1.", name)
        form = body.get("response_format") or {"type": "text"}
        if not isinstance(form, dict) or form.get("type") != "text":
            raise Refused(400, "This engine cannot be held to JSON.", "response_format")
        for name, neutral in REFUSED.items():
            if body.get(name) not in (None, neutral):
                raise Refused(400, f"This engine cannot do {name}.", name)
        for name, (kind, low, high) in RANGES.items():
            value: Any = body.get(name)
            if value is None:
                continue
            number = isinstance(value, kind) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise Refused(400, f"{name} must be a number from {low:g} to {high:g}.", name)
        passed = {name: body[name] for name in PASSED[path] if body.get(name) is not None}
        if path == TEXT:
            passed["prompt"] = one_text(body.get("prompt"))
        elif isinstance(passed.get("messages"), list):
            passed["messages"] = [
                present(one) if isinstance(one, dict) else one for one in passed["messages"]
            ]
        return passed | {"model": self.model}


class Answer:
    """Rewrites what the server sends: the model's name, errors, usage, the end of a stream."""

    def __init__(self, front: Front, send: Send, body: dict[str, Any]) -> None:
        self.front = front
        self.pass_on = send
        self.usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        self.start: Message = {}
        self.streamed = False
        self.pending = b""
        self.last: dict[str, Any] = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            kinds = dict(message["headers"]).get(b"content-type", b"")
            self.streamed = kinds.startswith(b"text/event-stream")
            if self.streamed:
                await self.pass_on(message)
        elif message["type"] == "http.response.body":
            self.pending += message.get("body", b"")
            more = message.get("more_body", False)
            if self.streamed:
                await self.stream(more)
            elif not more:
                await self.whole()
        else:
            await self.pass_on(message)

    async def whole(self) -> None:
        status = self.start["status"]
        try:
            answer = json.loads(self.pending)
        except ValueError:
            answer = {}
        if status >= 400 or not isinstance(answer, dict):
            said = answer.get("detail") or answer.get("error") or "The engine failed."
            await reply(self.pass_on, max(status, 400), wrong(str(said), None, status))
            return
        usage = answer.get("usage") or {}
        self.front.tokens += usage.get("completion_tokens", 0)
        self.front.prompted += usage.get("prompt_tokens", 0)
        await reply(self.pass_on, status, answer | {"model": self.front.name})

    async def stream(self, more: bool) -> None:
        *events, self.pending = self.pending.split(b"\n\n")
        out = b"".join(self.event(event) for event in events if event.strip())
        if not more:
            if self.usage_wanted and self.last.get("usage"):
                out += packed(self.last | {"choices": []})
            out += b"data: [DONE]\n\n"
        if out or not more:
            await self.pass_on({"type": "http.response.body", "body": out, "more_body": more})

    def event(self, event: bytes) -> bytes:
        try:
            chunk = json.loads(event.removeprefix(b"data: "))
        except ValueError:  # an error whose text broke its own JSON
            return packed(wrong("The engine failed in the middle of the answer.", None, 500))
        if "error" in chunk:
            return packed(wrong(str(chunk["error"]), None, 500))
        self.front.tokens += 1
        chunk["model"] = self.front.name
        if "usage" in chunk:
            self.last = dict(chunk)
            self.front.prompted += (chunk.pop("usage") or {}).get("prompt_tokens", 0)
        for choice in chunk.get("choices", ()):
            choice.setdefault("finish_reason", None)
        return packed(chunk)


def packed(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def wrong(message: str, param: str | None, status: int) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def one_text(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise Refused(400, "This engine takes one prompt, a text.", "prompt")
    return prompt


async def read(receive: Receive) -> dict[str, Any]:
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The body did not arrive.")
        data += message.get("body", b"")
        if len(data) > MOST_BODY:
            raise Refused(413, "The body is too large.")
        if not message.get("more_body"):
            break
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object.")
    return body


def once(data: bytes, receive: Receive) -> Receive:
    """`data` as the whole body, then whatever the client does."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": data, "more_body": False}

    return again


async def reply(send: Send, status: int, content: dict[str, Any] | str) -> None:
    kind, body = b"text/plain; charset=utf-8", content
    if isinstance(content, dict):
        kind, body = b"application/json", json.dumps(content, ensure_ascii=False)
    data = str(body).encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data, "more_body": False})
