"""What is different about `/v1/responses`: events that have names, and another word for usage."""

from typing import Any

PATH = "responses"


def last_of(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """The whole response in an event that ends a stream; None for any other event."""
    found = chunk.get("response")
    return found if isinstance(found, dict) else None


def is_token(event: bytes) -> bool:
    """Whether an event has a piece of the answer: all without a name, or one of a delta."""
    name, more, _ = event.partition(b"\n")
    return not (more and name.startswith(b"event: ")) or name.endswith(b".delta")


def usage_of_chat(usage: dict[str, Any]) -> dict[str, Any]:
    """Usage in the words of chat completions."""
    if "input_tokens" not in usage:
        return usage
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage.get("output_tokens"),
        "total_tokens": usage.get("total_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }
