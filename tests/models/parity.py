"""Models with the chat templates of many families, and conversations to put through them.

The templates are those that the installed trl carries (what model repositories ship, and its own
training variants), and ours. Their tokenizer is the starter model's, whose merges are real, with
the family's special tokens added.
"""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from app.config import ROOT, settings
from tests.models.chat_templates import TEMPLATES

STARTER = ROOT / "workers" / "starter" / "model"
SPECIAL = re.compile(
    r"<[|｜][^|｜>\s']{1,40}[|｜]>|<[|][a-z_]+>|<[a-z_]+[|]>|\[gMASK\]|<sop>|\[/?INST\]"
    r"|<(?:start|end)_of_turn>|<end_of_utterance>|<\|\"\|>"
)
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # tokens that are not special
# where engines of a family stop: its generation_config.json
STOPS = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "deepseek": ["<｜end▁of▁sentence｜>"],
    "diffusion_gemma": ["<turn|>", "<eos>", "<|tool_response>"],
    "gemma4": ["<turn|>", "<eos>", "<|tool_response>"],
    "gemma": ["<end_of_turn>", "<eos>"],
    "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|call|>", "<|endoftext|>"],
    "idefics3": ["<end_of_utterance>"],
    "lfm2": ["<|im_end|>"],
    "llama3": ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"],
    "llava": ["</s>"],
    "muse": ["<|eot|>"],
    "phi3": ["<|end|>", "<|endoftext|>"],
    "smolvlm": ["<end_of_utterance>"],
}
CHATML = ["<|im_end|>", "<|endoftext|>"]


def sources() -> dict[str, str | dict[str, str]]:
    """Every template by name: trl's, and those of `tests.models.chat_templates`."""
    (site,) = settings.train_python.parent.parent.glob("lib/python3*/site-packages")
    carried = sorted((site / "trl" / "chat_templates").glob("*.jinja"))
    found: dict[str, Any] = {path.stem: path.read_text("utf-8") for path in carried}
    return found | {f"own_{name}": source for name, source in TEMPLATES.items()}


def stops_of(name: str) -> list[str]:
    return next((words for start, words in STOPS.items() if name.startswith(start)), CHATML)


def make(directory: Path, name: str, source: str | dict[str, str]) -> Path:
    """A model's directory as models come, without weights."""
    place = directory / name
    (place / "additional_chat_templates").mkdir(parents=True)
    texts = source if isinstance(source, dict) else {"default": source}
    (place / "chat_template.jinja").write_text(texts["default"], "utf-8")
    for other, text in texts.items():
        if other != "default":
            (place / "additional_chat_templates" / f"{other}.jinja").write_text(text, "utf-8")
    stops = stops_of(name)
    words = sorted({word for text in texts.values() for word in SPECIAL.findall(text)})
    tokenizer = Tokenizer.from_file(str(STARTER / "tokenizer.json"))
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in ["<bos>", *stops, *words]]
    )
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in WORDS])
    tokenizer.save(str(place / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": stops[0],
        "pad_token": stops[0],
    }
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    ids = [tokenizer.token_to_id(word) for word in stops]
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    (place / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return place


# -- conversations -----------------------------------------------------------------------


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(number: int, **arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def result(number: int, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "content": content}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "天气 in a <city>, \"today\" & 'now'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "which"},
                    "days": {"type": "integer", "description": "how many"},
                },
                "required": ["city"],
            },
        },
    }
]
# As some people's data has it: keys in another order, no description, keys nobody knows.
UNTIDY = [
    {
        "function": {
            "parameters": {"type": "object", "properties": {}},
            "name": "weather",
            "note": "mine",
        },
        "type": "function",
    }
]
SYSTEM = {"role": "system", "content": "Be 'kind' & \"brief\"."}
ONE = call(1, city="北京", days=2)
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [user("hi"), answer("你好! 🎉")]},
    "spaced": {"messages": [user("\n hi \n\n"), answer("\n\n  indented\n\n\nend \n")]},
    "turns": {"messages": [SYSTEM, user("a"), answer("b c"), user("d\n"), answer("e\n\nf")]},
    "thinking": {"messages": [user("2+2?"), answer("4", reasoning_content="two\nand two\n")]},
    "thinking turns": {
        "messages": [
            SYSTEM,
            user("2+2?"),
            answer("4", reasoning_content="two and two"),
            user("really?"),
            answer("yes", reasoning_content="still"),
        ]
    },
    "thinking inside": {
        "messages": [user("2+2?"), answer("<think>\ntwo\n</think>\n\n4"), user("ok?"), answer("ok")]
    },
    "tools": {
        "messages": [
            SYSTEM,
            user("weather?"),
            answer("", tool_calls=[ONE]),
            result(1, '{"t": 21}'),
            answer("21 °C"),
        ],
        "tools": TOOLS,
    },
    "tools without words": {
        "messages": [user("weather?"), answer(None, tool_calls=[ONE])],
        "tools": TOOLS,
    },
    "two calls": {
        "messages": [
            user("weather?"),
            answer("Let me see.", tool_calls=[ONE, call(2, city="b")]),
            result(1, "21"),
            result(2, "22"),
            answer("21, 22"),
            user("thanks"),
            answer("welcome"),
        ],
        "tools": TOOLS,
    },
    "tools and thinking": {
        "messages": [
            user("weather?"),
            answer("", reasoning_content="I must ask", tool_calls=[ONE]),
            result(1, "21"),
            answer("21 °C", reasoning_content="it is warm"),
        ],
        "tools": TOOLS,
    },
    "untidy tools": {
        "messages": [user("weather?"), answer("", tool_calls=[call(1)]), result(1, "21"), answer("21")],
        "tools": UNTIDY,
    },
}  # fmt: skip
