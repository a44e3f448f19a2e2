"""What a person may tell an engine: its arguments, by an allowlist, and how to quantise.

What is not in these tables never reaches a command line.
"""

from dataclasses import dataclass
from typing import Any

from app.errors import N_, Invalid

TOOL_PARSERS = (
    "cohere_command3", "deepseek_v3", "deepseek_v31", "deepseek_v32", "ernie45", "glm45", "glm47",
    "granite", "granite4", "hermes", "hunyuan_a13b", "internlm", "jamba", "kimi_k2",
    "llama3_json", "llama4_json", "llama4_pythonic", "longcat", "mimo", "minicpm5", "minimax_m2",
    "mistral", "olmo3", "openai", "phi4_mini_json", "pythonic", "qwen3_coder", "qwen3_json",
)  # fmt: skip
REASONING_PARSERS = (
    "cohere_command3", "deepseek_r1", "deepseek_v3", "ernie45", "gemma4", "glm45", "glm47",
    "granite", "hunyuan_a13b", "kimi_k2", "mimo", "minimax_m2", "mistral", "nemotron_v3", "olmo3",
    "openai_gptoss", "qwen3", "seed_oss", "step3",
)  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """One of the engine's arguments. `kind` is whole, yes or word; `words` are what it may be."""

    name: str
    kind: str
    doc: str  # a msgid
    low: int = 0
    high: int = 0
    words: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def field(self) -> str:
        """What a form calls it."""
        return f"arguments.{self.name}"

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


ARGUMENTS = {
    one.name: one
    for one in (
        Argument(
            "max_num_seqs",
            "whole",
            N_("Requests that it works on at once. Fewer need less memory; the others wait."),
            low=1,
            high=1024,
        ),
        Argument(
            "max_num_batched_tokens",
            "whole",
            N_("Tokens in one step of the engine. More reads long prompts faster."),
            low=64,
            high=131072,
        ),
        Argument(
            "enable_prefix_caching",
            "yes",
            N_("Prompts that begin alike are read once. On unless it is turned off."),
        ),
        Argument(
            "enable_chunked_prefill",
            "yes",
            N_("Long prompts are read in pieces, so that others do not wait for them."),
        ),
        Argument(
            "enforce_eager",
            "yes",
            N_("No compiling: it starts sooner and answers a little slower."),
        ),
        Argument(
            "dtype",
            "word",
            N_("The numbers that it computes with. “auto” takes those of the model."),
            words=("auto", "bfloat16", "float16", "float32"),
        ),
        Argument(
            "kv_cache_dtype",
            "word",
            N_("The numbers in its cache. With fp8 twice as many tokens fit."),
            words=("auto", "fp8"),
            devices=("cuda",),
        ),
        Argument(
            "cpu_offload_gb",
            "whole",
            N_("GiB of weights per device that stay in main memory. Much slower."),
            low=0,
            high=512,
            devices=("cuda",),
        ),
        Argument(
            "max_logprobs",
            "whole",
            N_("The most log probabilities that a request may ask for, per token."),
            low=0,
            high=100,
        ),
        Argument("seed", "whole", N_("The seed of its random numbers."), low=0, high=2**31 - 1),
        Argument(
            "runner",
            "word",
            N_("“pooling” gives embeddings, “generate” writes answers: by the model's own files."),
            words=("generate", "pooling"),
        ),
        Argument(
            "tool_call_parser",
            "word",
            N_("How it finds tool calls in an answer: by the family of the model."),
            words=TOOL_PARSERS,
        ),
        Argument(
            "reasoning_parser",
            "word",
            N_("How it tells thinking from the answer: by the family of the model."),
            words=REASONING_PARSERS,
        ),
    )
}

# Methods of the vLLM we pin that quantise a plain model while it is loaded, with the bytes that a
# weight of a linear layer then takes. Its CPU build has none of them, and it has no bitsandbytes.
QUANTIZATIONS = {"fp8_per_tensor": 1.0, "fp8_per_channel": 1.01, "fp8_per_block": 1.01}
CAPABLE = {"cuda"}


def check(given: dict[str, Any], *, engine: str, kind: str | None) -> dict[str, Any]:
    """The arguments with values of their types; empty ones are left out.

    `kind` is that of the devices there are, None before any is known. Raises Invalid, naming
    the argument, for all that is not in the table.
    """
    found = {}
    for name, value in given.items():
        if value is None or value == "":
            continue
        known = ARGUMENTS.get(name)
        if known is None:
            raise refuse(
                name,
                N_("%(name)s is no engine argument that may be set here. These may: %(known)s."),
                known=", ".join(ARGUMENTS),
            )
        if engine != "vllm":
            raise refuse(
                name, N_("%(name)s is an argument of vLLM; transformers does not know it.")
            )
        if kind is not None and kind not in known.devices:
            raise refuse(name, N_("%(name)s works on GPUs only, and there is none here."))
        found[name] = read(known, value)
    return found


def read(argument: Argument, value: Any) -> Any:
    if argument.kind == "yes":
        words = {"true": True, "on": True, "false": False, "off": False}
        answer = words.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(answer, bool):
            raise refuse(argument.name, N_("%(name)s is either true or false."))
        return answer
    if argument.kind == "word":
        if value not in argument.words:
            raise refuse(
                argument.name,
                N_("%(name)s must be one of: %(words)s."),
                words=", ".join(argument.words),
            )
        return value
    text = str(value).strip()
    whole = not isinstance(value, bool) and len(text) < 12 and text.isascii() and text.isdecimal()
    if not whole or not argument.low <= int(text) <= argument.high:
        raise refuse(
            argument.name,
            N_("%(name)s must be a whole number from %(low)s to %(high)s."),
            low=argument.low,
            high=argument.high,
        )
    return int(text)


def refuse(name: str, message: str, **params: Any) -> Invalid:
    name = str(name)[:60]
    return Invalid(message, code="argument", field=f"arguments.{name}", name=name, **params)


def offered(*, engine: str, kind: str | None, config: dict[str, Any]) -> list[str]:
    """The ways to quantise that this engine can on such devices, for a model with this config."""
    able = engine == "vllm" and kind in CAPABLE and not config.get("quantization_config")
    return list(QUANTIZATIONS) if able else []


def check_quantization(name: str, can: list[str], config: dict[str, Any]) -> None:
    """Raises Invalid for one that is not among those that `can` be."""
    if not name or name in can:
        return
    if config.get("quantization_config"):
        raise Invalid(
            N_("This model is quantised already. Leave the quantisation out."),
            code="quantization",
            field="quantization",
        )
    raise Invalid(
        N_("The quantisation %(name)s does not run here. These do: %(can)s.")
        if can
        else N_("The quantisation %(name)s does not run here: it needs vLLM on a GPU."),
        code="quantization",
        field="quantization",
        name=name[:60],
        **({"can": ", ".join(can)} if can else {}),
    )


def kind_for(quantization: str, arguments: dict[str, Any]) -> str | None:
    """The kind of device that these need: cuda, or None for either."""
    needs_gpu = quantization or any("cpu" not in ARGUMENTS[name].devices for name in arguments)
    return "cuda" if needs_gpu else None


def argv(arguments: dict[str, Any]) -> list[str]:
    """The flags for `arguments` that were checked. Raises KeyError for one that is not known."""
    flags: list[str] = []
    for name, value in arguments.items():
        known = ARGUMENTS[name]
        if known.kind != "yes":
            flags += [known.flag, str(value)]
        elif value:
            flags.append(known.flag)
        elif name.startswith("enable_"):
            flags.append(f"--no-{known.flag[2:]}")
    if "tool_call_parser" in arguments:
        flags.append("--enable-auto-tool-choice")
    return flags
