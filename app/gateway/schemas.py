"""What a request to `/v1` may say. Anything else is refused, never passed to an engine."""

from typing import Any

import orjson

from app.errors import N_, Invalid

SHARED = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "n", "stop",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "seed", "user",
    # vLLM's sampling extras, harmless and widely used
    "top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos",
    "skip_special_tokens", "include_stop_str_in_output", "structured_outputs",
    # of no use to an engine
    "service_tier", "prompt_cache_key", "safety_identifier",
}  # fmt: skip
FIELDS = {
    "chat/completions": SHARED
    | {
        "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice",
        "parallel_tool_calls", "response_format", "reasoning_effort", "include_reasoning",
        "metadata", "store",
    },
    "completions": SHARED | {"prompt", "suffix", "echo", "best_of"},
    "responses": SHARED - {"n", "stop", "logprobs", "max_tokens", "min_tokens", "stream_options"}
    | {
        "input", "instructions", "include", "include_reasoning", "max_output_tokens", "metadata",
        "parallel_tool_calls", "reasoning", "store", "text", "tool_choice", "tools",
        "top_logprobs", "truncation", "background", "previous_response_id", "conversation",
    },
    "embeddings": {"model", "input", "encoding_format", "dimensions", "truncate_prompt_tokens", "user"},
}  # fmt: skip
# accepted for the client's sake, of no use to an engine
UNSENT = {"user", "store", "service_tier", "prompt_cache_key", "safety_identifier"}
TOLD_AGAIN = {"user", "metadata"}  # what an engine puts into its answer to /v1/responses
STATEFUL = ("background", "previous_response_id", "conversation")  # need what nobody keeps here
FORMS = ("response_format", "structured_outputs", "tools", "text")  # have schemas in them
MAX_MESSAGES = 2000
MAX_CHOICES = 16
MAX_INPUTS = 2048  # texts in one request for embeddings, as OpenAI has it
MAX_FORM = 256 * 1024  # bytes of a schema


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
    check_nesting(body)
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise refuse(N_("Say which model is meant, in the field model."), "model")
    CHECKS[path](body)
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
    unsent = UNSENT - TOLD_AGAIN if path == "responses" else UNSENT | {"metadata"}
    return {name: value for name, value in body.items() if name not in unsent}


def check_nesting(body: dict[str, Any]) -> None:
    """What is nested too deeply could not be written for the engine; a large schema stops it."""
    try:
        orjson.dumps(body)
        large = [one for one in FORMS if one in body and len(orjson.dumps(body[one])) > MAX_FORM]
    except orjson.JSONEncodeError:
        raise refuse(N_("The body is nested too deeply."), "") from None
    if large:
        raise refuse(
            N_("%(name)s is larger than %(most)s KiB."),
            large[0],
            name=large[0],
            most=MAX_FORM // 1024,
        )


def check_chat(body: dict[str, Any]) -> None:
    check_messages(body.get("messages"))


def check_prompt(body: dict[str, Any]) -> None:
    if not isinstance(body.get("prompt"), str | list) or not body["prompt"]:
        raise refuse(N_("prompt must be a text or a list of texts."), "prompt")


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
        check_parts(message.get("content"), f"messages[{index}].content", ("text",))


def check_parts(content: Any, path: str, kinds: tuple[str, ...]) -> None:
    """A text, or parts that are texts: what names an address would be fetched by the engine."""
    parts = content if isinstance(content, list) else []
    if any(not isinstance(part, dict) or part.get("type") not in kinds for part in parts):
        raise refuse(N_("%(path)s: only text content is taken."), path, path=path)


def check_embeddings(body: dict[str, Any]) -> None:
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise refuse(N_("input must be a text, or a list of texts or of tokens."), "input")
    if isinstance(given, str):
        return
    kinds = {type(one) for one in given}
    if kinds not in ({str}, {int}, {list}):
        raise refuse(N_("input must be a text, or a list of texts or of tokens."), "input")
    if kinds == {list} and any(type(token) is not int for one in given for token in one):
        raise refuse(N_("input must be a text, or a list of texts or of tokens."), "input")
    if kinds != {int} and len(given) > MAX_INPUTS:
        raise refuse(
            N_("input has %(count)s texts; at most %(most)s are taken."),
            "input",
            count=len(given),
            most=MAX_INPUTS,
        )


# -- responses ---------------------------------------------------------------------------

ITEMS = ("message", "reasoning", "function_call", "function_call_output")
TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")


def check_responses(body: dict[str, Any]) -> None:
    """Nothing is kept here between two requests, and an engine runs no tools itself."""
    for name in STATEFUL:
        if body.get(name):
            raise refuse(
                N_(
                    "%(name)s needs responses that are kept, and none are kept here. Send the whole "
                    "conversation in input."
                ),
                name,
                name=name,
            )
        body.pop(name, None)
    tools = body.get("tools") or []
    if not isinstance(tools, list) or any(
        not isinstance(tool, dict) or tool.get("type") != "function" for tool in tools
    ):
        raise refuse(N_("tools: only tools of the type function are taken."), "tools")
    given = body.get("input")
    if isinstance(given, str) and given:
        return
    if not isinstance(given, list) or not given:
        raise refuse(N_("input must be a text, or a list with at least one item."), "input")
    if len(given) > MAX_MESSAGES:
        raise refuse(
            N_("input has %(count)s items; at most %(most)s are taken."),
            "input",
            count=len(given),
            most=MAX_MESSAGES,
        )
    for index, item in enumerate(given):
        path = f"input[{index}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind not in ITEMS:
            raise refuse(
                N_("%(path)s must be one of: %(known)s."), path, path=path, known=", ".join(ITEMS)
            )
        for name in ("content", "output", "summary"):
            check_parts(item.get(name), f"{path}.{name}", TEXTS)


CHECKS = {
    "chat/completions": check_chat,
    "completions": check_prompt,
    "responses": check_responses,
    "embeddings": check_embeddings,
}
