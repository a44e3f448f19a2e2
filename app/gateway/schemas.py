"""What a request to `/v1` may say. Anything else is refused, never passed to an engine."""

from typing import Any

from app.errors import N_, Invalid

SHARED = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "n", "stop",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "seed", "user",
    # vLLM's sampling extras, harmless and widely used
    "top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos",
    "skip_special_tokens", "include_stop_str_in_output",
}  # fmt: skip
FIELDS = {
    "chat/completions": SHARED
    | {
        "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice",
        "parallel_tool_calls", "response_format", "reasoning_effort", "metadata", "store",
    },
    "completions": SHARED | {"prompt", "suffix", "echo", "best_of"},
}  # fmt: skip
UNSENT = {"user", "metadata", "store"}  # accepted for the client's sake, of no use to an engine
MAX_MESSAGES = 2000
MAX_CHOICES = 16


def refuse(message: str, param: str, **params: Any) -> Invalid:
    error = Invalid(message, code="invalid_value", field=param, **params)
    error.status = 400
    return error


def check(path: str, body: Any) -> dict[str, Any]:
    """The body as an engine may see it. Raises `Invalid` (400), naming the field.

    Engines check types and ranges of sampling values themselves and answer 400; here stands
    what they must not be asked (unknown fields, a chat template from outside, huge `n`).
    """
    if not isinstance(body, dict):
        raise refuse(N_("The body must be a JSON object."), "")
    for name in body:
        if name not in FIELDS[path]:
            raise refuse(N_("Unrecognised field %(name)s."), str(name)[:100], name=str(name)[:100])
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise refuse(N_("Say which model is meant, in the field model."), "model")
    if path == "chat/completions":
        check_messages(body.get("messages"))
    elif not isinstance(body.get("prompt"), str | list) or not body["prompt"]:
        raise refuse(N_("prompt must be a text or a list of texts."), "prompt")
    for name in ("n", "best_of"):
        value = body.get(name)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_CHOICES
        ):
            raise refuse(
                N_("%(name)s must be a whole number from 1 to %(most)s."),
                name,
                name=name,
                most=MAX_CHOICES,
            )
    if body.get("stream") not in (None, True, False):
        raise refuse(N_("stream must be true or false."), "stream")
    if body.get("stream_options") is not None:
        if not body.get("stream"):
            raise refuse(
                N_("stream_options is only for requests with stream set to true."),
                "stream_options",
            )
        if not isinstance(body["stream_options"], dict):
            raise refuse(N_("stream_options must be an object."), "stream_options")
    return {name: value for name, value in body.items() if name not in UNSENT}


def check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise refuse(N_("messages must be a list with at least one message."), "messages")
    if len(messages) > MAX_MESSAGES:
        raise refuse(
            N_("messages has %(count)s messages; at most %(most)s are taken."),
            "messages",
            count=len(messages),
            most=MAX_MESSAGES,
        )
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise refuse(
                N_("%(path)s must be an object with role and content."),
                f"messages[{index}]",
                path=f"messages[{index}]",
            )
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
            raise refuse(
                N_("%(path)s: only text content is taken."),
                f"messages[{index}].content",
                path=f"messages[{index}].content",
            )
