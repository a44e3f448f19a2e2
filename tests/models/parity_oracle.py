"""What vLLM makes of conversations: `<serve_python> parity_oracle.py < cases.json`, no engine.

Each case passes what a request to /v1/chat/completions passes: vLLM's own validation of the body,
its parsing of the messages, its choice and rendering of the template, the model's own tokenizer.
Prints a JSON list: the ids of the prompt, or the reason for which it is refused.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template


def prompt(tokenizer: Any, directory: str, template: str | None, form: str, body: Any) -> list[int]:
    config: Any = SimpleNamespace(
        hf_config=SimpleNamespace(model_type="qwen3"), multimodal_config=None,
        model=directory, tokenizer=directory, revision=None, tokenizer_revision=None,
        code_revision=None, trust_remote_code=False, enable_prompt_embeds=False,
        is_multimodal_model=False, allowed_local_media_path="", allowed_media_domains=None,
    )  # fmt: skip
    request = ChatCompletionRequest(model="m", **body)
    tools = [tool.model_dump() for tool in request.tools] if request.tools else None
    params = request.build_chat_params(template, form).with_defaults(
        {"tools": tools, "tokenize": False}
    )
    conversation, *_ = parse_chat_messages(
        request.messages,
        config,
        content_format=resolve_chat_template_content_format(
            chat_template=params.chat_template,
            tools=tools,
            given_format=params.chat_template_content_format,
            tokenizer=tokenizer,
            model_config=config,
        ),
    )
    text = safe_apply_chat_template(
        config, tokenizer, conversation, **params.get_apply_chat_template_kwargs()
    )
    return list(tokenizer.encode(text, add_special_tokens=request.add_special_tokens))


def main() -> None:
    given = json.load(sys.stdin)
    tokenizers = {
        name: AutoTokenizer.from_pretrained(place) for name, place in given["models"].items()
    }
    answers: list[list[int] | str] = []
    for name, body in given["cases"]:
        try:
            answers.append(
                prompt(
                    tokenizers[name],
                    given["models"][name],
                    given["templates"].get(name),
                    given["form"],
                    body,
                )
            )
        except Exception as error:  # noqa: BLE001 - the template's own refusals
            answers.append(f"{type(error).__name__}: {error}")
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
