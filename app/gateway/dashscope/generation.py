"""Text generation: DashScope's request as a chat completion, and the answer in DashScope's words."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.errors import N_, DomainError
from app.gateway import schemas

SAME = {
    "temperature", "top_p", "top_k", "max_tokens", "seed", "stop", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "n", "tools", "tool_choice", "parallel_tool_calls", "logprobs",
    "top_logprobs", "response_format",
}  # fmt: skip
# of the answer's form, or nothing that an engine here could be told
ASIDE = {
    "result_format", "incremental_output", "stream", "enable_thinking", "thinking_budget",
    "enable_search", "search_options", "user_agent", "output_format",
}  # fmt: skip
FORMATS = ("text", "message")


@dataclass(frozen=True)
class Asked:
    body: dict[str, Any]  # of a chat completion
    messages: bool  # the answer's form: messages, or a text
    incremental: bool  # a stream tells what is new, or all there is so far


class EngineError(DomainError):
    """What an engine answered instead of an answer."""

    code = "engine_error"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# -- the request -------------------------------------------------------------------------


def read(body: Any, *, stream: bool) -> Asked:
    """Raises Invalid (400), naming the field."""
    if not isinstance(body, dict):
        raise schemas.refuse(N_("The body must be a JSON object."), "")
    given, parameters = body.get("input"), body.get("parameters") or {}
    if not isinstance(given, dict) or not isinstance(parameters, dict):
        raise schemas.refuse(
            N_("input and parameters must be objects; input has a prompt or messages."), "input"
        )
    for name in parameters:
        if name not in SAME and name not in ASIDE:
            raise schemas.refuse(
                N_("Unrecognised field %(name)s."), f"parameters.{name}"[:100], name=name[:100]
            )
    if parameters.get("enable_search"):
        raise schemas.refuse(
            N_("There is no web search here: leave enable_search out."), "parameters.enable_search"
        )
    form = parameters.get("result_format") or "text"
    if form not in FORMATS:
        raise schemas.refuse(N_("result_format is text or message."), "parameters.result_format")
    chat = {name: value for name, value in parameters.items() if name in SAME and value is not None}
    stop = chat.get("stop")
    if isinstance(stop, list) and stop and all(type(one) is int for one in stop):
        chat["stop_token_ids"] = chat.pop("stop")  # DashScope has one name for both
    chat |= {"model": body.get("model"), "messages": messages_of(given)}
    if stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return Asked(
        schemas.check("chat/completions", chat),
        messages=form == "message" or bool(chat.get("tools")),
        incremental=bool(parameters.get("incremental_output")),
    )


def messages_of(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Of `messages`, or of a `prompt` with the `history` before it."""
    if given.get("messages") is not None:
        if not isinstance(given["messages"], list):
            raise schemas.refuse(N_("messages must be a list."), "input.messages")
        return [flat(one) for one in given["messages"]]
    prompt, history = given.get("prompt"), given.get("history") or []
    if not isinstance(prompt, str) or not prompt or not isinstance(history, list):
        raise schemas.refuse(N_("Say what to answer: input.prompt or input.messages."), "input")
    found = []
    for turn in history:
        if isinstance(turn, dict) and {"user", "bot"} <= turn.keys():
            found.append({"role": "user", "content": turn["user"]})
            found.append({"role": "assistant", "content": turn["bot"]})
    return [*found, {"role": "user", "content": prompt}]


def flat(message: Any) -> Any:
    """A message whose parts are {text} as one with plain content."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    texts = []
    for part in message["content"]:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise schemas.refuse(N_("Only text content is taken."), "input.messages")
        texts.append(part["text"])
    return {**message, "content": "".join(texts)}


# -- the whole answer --------------------------------------------------------------------


def whole(asked: Asked, status: int, answer: bytes, request_id: str) -> dict[str, Any]:
    """Raises EngineError for an answer that is none."""
    found = orjson.loads(answer)
    if status != 200:
        raise engine_error(status, found)
    choices = [
        {
            "index": one["index"],
            "finish_reason": one["finish_reason"],
            "message": kept(one["message"]),
        }
        | ({"logprobs": one["logprobs"]} if one.get("logprobs") else {})
        for one in found["choices"]
    ]
    return envelope(asked, choices, found.get("usage"), request_id)


def engine_error(status: int, found: Any) -> EngineError:
    said = found.get("error", found) if isinstance(found, dict) else {}
    message = said.get("message") if isinstance(said, dict) else None
    return EngineError(status, str(message or "The engine refused the request."))


def kept(message: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message that say something."""
    found = {"role": message.get("role") or "assistant", "content": message.get("content") or ""}
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        found["reasoning_content"] = thought
    if message.get("tool_calls"):
        found["tool_calls"] = message["tool_calls"]
    return found


def envelope(
    asked: Asked, choices: list[dict[str, Any]], usage: dict[str, Any] | None, request_id: str
) -> dict[str, Any]:
    if asked.messages:
        output: dict[str, Any] = {"text": None, "finish_reason": None, "choices": choices}
    else:
        first = choices[0]
        output = {"text": first["message"]["content"], "finish_reason": first["finish_reason"]}
    found: dict[str, Any] = {"output": output, "request_id": request_id}
    if usage:
        found["usage"] = counted(usage)
    return found


def counted(usage: dict[str, Any]) -> dict[str, Any]:
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    found = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    details = {
        "prompt_tokens_details": usage.get("prompt_tokens_details"),
        "output_tokens_details": usage.get("completion_tokens_details"),
    }
    return found | {name: one for name, one in details.items() if one}


# -- the stream --------------------------------------------------------------------------


@dataclass
class Choice:
    """One of the answers that grow in a stream."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Events:
    """An engine's chunks as DashScope's events. The last event has the usage."""

    asked: Asked
    request_id: str
    number: int = 0
    choices: dict[int, Choice] = field(default_factory=dict)

    async def of(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        held: list[dict[str, Any]] = []  # the end, until its usage is known
        async for event in chunks:
            data = event.removeprefix(b"data:").strip()
            if data == b"[DONE]" or not data.startswith(b"{"):
                continue
            chunk = orjson.loads(data)
            if "error" in chunk:
                yield self.failed(chunk["error"])
                return
            if held and (chunk.get("choices") or chunk.get("usage")):
                yield self.told(held, None if chunk.get("choices") else chunk.get("usage"))
                held = []
            told = [self.grown(one) for one in chunk.get("choices") or []]
            if any(one["finish_reason"] != "null" for one in told):
                held = told
            elif told:
                yield self.told(told, None)
        if held:
            yield self.told(held, None)

    def grown(self, one: dict[str, Any]) -> dict[str, Any]:
        """A choice of a chunk, as it is told: what is new, or all there is."""
        delta, state = one.get("delta") or {}, self.choices.setdefault(one["index"], Choice())
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        state.content += delta.get("content") or ""
        state.reasoning += thought
        for call in delta.get("tool_calls") or []:
            grow(state.calls, call)
        message = {"role": "assistant", "content": delta.get("content") or ""}
        if thought:
            message["reasoning_content"] = thought
        if delta.get("tool_calls"):
            message["tool_calls"] = delta["tool_calls"]
        if not self.asked.incremental:
            message = kept(
                {
                    "content": state.content,
                    "reasoning_content": state.reasoning,
                    "tool_calls": [state.calls[at] for at in sorted(state.calls)],
                }
            )
        return {
            "index": one["index"],
            "finish_reason": one.get("finish_reason") or "null",
            "message": message,
        }

    def told(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        found = envelope(self.asked, choices, usage, self.request_id)
        return self.event(b"result", 200, found)

    def failed(self, error: dict[str, Any]) -> bytes:
        found = {
            "code": "ServiceUnavailable",
            "message": error.get("message") or "",
            "request_id": self.request_id,
        }
        return self.event(b"error", 503, found)

    def event(self, kind: bytes, status: int, data: dict[str, Any]) -> bytes:
        self.number += 1
        line = b"status:%d\n" % status if status != 200 else b""
        return b"id:%d\nevent:%s\n:HTTP_STATUS/%d\n%sdata:%s\n\n" % (
            self.number, kind, status, line, orjson.dumps(data),
        )  # fmt: skip


def grow(calls: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
    """Add a piece of a tool call to what is known of it."""
    function = piece.get("function") or {}
    known = calls.setdefault(
        piece.get("index", 0),
        {
            "index": piece.get("index", 0),
            "id": "",
            "type": "function",
            "function": {"name": "", "arguments": ""},
        },
    )
    known["id"] = piece.get("id") or known["id"]
    known["function"]["name"] += function.get("name") or ""
    known["function"]["arguments"] += function.get("arguments") or ""
