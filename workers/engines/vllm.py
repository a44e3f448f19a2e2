"""vLLM: how it is started, what its log means, what its errors ask of the user.

Every flag is ours, or of the allowlist in `app.deployments.options`. The secret goes through the environment, where `ps`
does not show it. Only the gateway speaks to it: its key guards no more than /v1.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from app.config import settings
from app.deployments import options, runners, speech
from app.errors import N_
from app.models import chat_template
from workers.engines.common import Command, Start, cores, gpus, offline

NAME = "vllm"
SMALL = {"cpu": 1_000_000_000, "cuda": 50_000_000}  # parameters: not worth compiling for
SOCKET_PATH = 107  # bytes that Linux allows
COUNTER = "vllm:generation_tokens_total"
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
CONTENT_FORMAT = "string"  # how training renders; vLLM's guess would be lists of parts for some
THINKING = re.compile(r"message(?:\.thinking|\[.thinking.\])")
# vLLM calls an answer's reasoning `reasoning_content` and hands on no other name for it.
NAMES_THINKING = """\
{%- set danlu = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- if message.reasoning_content is defined and message.thinking is not defined -%}
        {%- set message = dict(message, thinking=message.reasoning_content) -%}
    {%- endif -%}
    {%- set danlu.messages = danlu.messages + [message] -%}
{%- endfor -%}
{%- set messages = danlu.messages -%}
"""


def command(start: Start) -> Command:
    """The argument vector and environment of one engine."""
    facts = start.facts
    # In adapter mode the deployment's name is the adapter's, and the base has one nobody asks for.
    served = f"{facts.name}:base" if start.adapter else facts.name
    argv = [
        *(str(settings.serve_python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(start.model)),
        *("--served-model-name", served),
        *("--host", start.host, "--port", str(start.port)),
        *("--max-model-len", str(facts.max_model_len)),
        *("--shutdown-timeout", "5"),
        *("--chat-template-content-format", CONTENT_FORMAT),
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        "--enable-prompt-tokens-details",
    ]
    if template := served_template(start.model, start.adapter, start.directory):
        argv += ["--chat-template", str(template)]
    small = facts.parameters < SMALL["cuda" if start.on_gpu else "cpu"]
    argv += options.argv(({"enforce_eager": True} if small else {}) | facts.arguments)
    if pooler := runners.embeds(facts.arguments) and runners.pooler(reader(start.model)):
        argv += ["--pooler-config", json.dumps(pooler)]
    if facts.quantization:
        argv += ["--quantization", facts.quantization]
    argv += adapters(start)
    env = offline() | {
        "VLLM_API_KEY": start.secret,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(settings.cache / "vllm"),  # compiled graphs outlive a start
    }
    if len(str(start.directory)) < SOCKET_PATH - len(f"/{uuid.uuid4()}"):
        env["VLLM_RPC_BASE_PATH"] = str(start.directory)  # its sockets go when the run goes
    if facts.adapters:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if start.on_gpu:
        argv += ["--gpu-memory-utilization", f"{min(facts.share, 0.95):.3f}"]
        if len(facts.devices) > 1:
            argv += ["--tensor-parallel-size", str(len(facts.devices))]
        return Command(argv, env | gpus(start))
    argv += ["--kv-cache-memory-bytes", str(facts.cache_bytes)]
    threads = str(len(cores(facts.devices)))
    env |= {
        # several engines share a device, and one that is busy never rests: bound to its core, the
        # next would not come to start
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # the model in the engine's own process, not in one more: it starts in half the time, takes
        # 600 MB less, and no step waits for two processes that share a core
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    return Command(argv, env)


def reader(model: Path) -> runners.Read:
    return lambda name: (model / name).read_bytes()


def adapters(start: Start) -> list[str]:
    """Flags for an adapter of its own, and for room for others that are loaded while it runs."""
    facts = start.facts
    if not start.adapter and not facts.adapters:
        return []
    argv = ["--enable-lora", "--max-lora-rank", str(facts.rank)]
    argv += ["--max-loras", str(facts.at_once)]
    argv += ["--max-cpu-loras", str(facts.adapters + (1 if start.adapter else 0))]
    if start.adapter:
        argv += ["--lora-modules", f"{facts.name}={start.adapter}"]
        if (start.adapter / "generation_config.json").exists():  # it stops where it learned to
            argv += ["--generation-config", str(start.adapter)]
    return argv


def served_template(model: Path, adapter: Path | None, directory: Path) -> Path | None:
    """A chat template to serve in place of the model's own: the adapter's, which it learned to
    read, or where vLLM would hand the model's one less than training does. Written into
    `directory`. None where the model's own is right.
    """
    try:
        found = chat_template.load(model)
        own = chat_template.load(adapter) if adapter else None
        learned = bool(own and adapter and speech.template_of(adapter) != speech.template_of(model))
    except chat_template.ChatTemplateError:
        return None
    found = own if learned else found
    named = bool(found and not found.tool_source and THINKING.search(found.source))
    if found is None or not (learned or named):
        return None
    path = directory / "chat_template.jinja"
    path.write_text((NAMES_THINKING if named else "") + found.source, "utf-8")
    return path


# -- its log -----------------------------------------------------------------------------

Phases = tuple[tuple[str, re.Pattern[str]], ...]
PHASES: Phases = (  # the last of these that the log has seen; then we check it
    ("load", re.compile(r"Starting to load model")),
    ("compile", re.compile(r"torch\.compile takes|Dynamo bytecode transform|Compiling a graph")),
    ("warm", re.compile(r"KV cache size:|Capturing CUDA graph|Warming up")),
)


def phase(text: str, before: str, phases: Phases = PHASES) -> str:
    """How far a start has come, by a piece of its log; never backwards."""
    order = ["start", *(name for name, _ in phases), "check"]
    reached = [name for name, pattern in phases if pattern.search(text)]
    return max([before, *reached], key=lambda name: order.index(name) if name in order else -1)


PROGRESS = re.compile(
    r"(?:checkpoint shards|Capturing CUDA graphs?|Loading weights)[^\n]*?(\d{1,3})%"
)


def progress(text: str) -> int | None:
    """Percent of the phase that is under way, by a piece of the log; None if it says nothing."""
    found = PROGRESS.findall(text)
    return min(100, int(found[-1])) if found else None


ADVICE_MEMORY = N_(
    "Choose a smaller model or a shorter context, give it more devices, or stop something else."
)
ADVICE_WAIT = N_("Stop what else uses this device. It is tried again by itself.")
ERRORS: tuple[tuple[str, str, str, str, bool], ...] = (
    # code, pattern with named groups, message, advice, permanent
    (
        "context_too_long",
        (
            r"max seq len \((?P<asked>\d+)\), \((?P<need>[\d.]+) GiB KV cache is needed.*?"
            r"estimated maximum model length is (?P<suggested>\d+)"
        ),
        N_("There is no room for %(asked)s tokens of context: they need %(need)s GiB of cache."),
        N_("Deploy it with a context of %(suggested)s tokens."),
        True,
    ),
    (
        "device_busy",
        (
            r"Free memory on device.*?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?"
            r"less than desired GPU memory utilization"
        ),
        N_("Something else uses the device: only %(free)s of its %(total)s GiB are free."),
        ADVICE_WAIT,
        False,
    ),
    (
        "no_cache",
        r"No available memory for the cache blocks",
        N_("The weights fill the memory it may use: nothing is left for the cache."),
        ADVICE_MEMORY,
        True,
    ),
    (
        "memory_busy",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache",
        N_("Only %(free)s of the machine's %(total)s GiB of memory are free."),
        ADVICE_WAIT,
        False,
    ),
    (
        "sampler_memory",
        r"out of memory occurred when warming up sampler",
        N_("The device's memory ran out while the engine warmed up."),
        ADVICE_MEMORY,
        False,
    ),
    (
        "out_of_memory",
        (
            r"OutOfMemoryError|CUDA out of memory|can't allocate memory|Cannot allocate memory"
            r"|MemoryError|std::bad_alloc"
        ),
        N_("The memory ran out while the model was loaded."),
        ADVICE_MEMORY,
        False,
    ),
    (
        "architecture",
        r"Model architectures \[(?P<names>[^\]]*)\] are not supported",
        N_("vLLM does not know this kind of model: %(names)s."),
        N_("Deploy it with the transformers engine."),
        True,
    ),
    (
        "remote_code",
        r"trust_remote_code=True",
        N_("The model wants to run code of its own, which is never allowed here."),
        N_("Use a model that needs no code of its own."),
        True,
    ),
    (
        "no_lora",
        r"\w+ does not support LoRA yet",
        N_("vLLM cannot load adapters for this kind of model."),
        N_("It is started again without room for adapters."),
        False,
    ),
    (
        "adapter",
        (
            r"LoRA rank \d+ is greater than max_lora_rank|vLLM (?:does not|only) support"
            r"|expected target modules in"
        ),
        N_("vLLM cannot serve this adapter on its base."),
        N_("Deploy it again in the mode “merged”."),
        True,
    ),
    (
        "port",
        r"Address already in use|address already in use",
        N_("Its port was taken by another program just then."),
        N_("It is tried again by itself, on another port."),
        False,
    ),
)
# An error line of vLLM's logger, or the last line of a traceback; warnings name exceptions too.
ERROR_LINE = re.compile(
    r"^(?:\([^)\n]*\) )?(?:ERROR [^\]\n]*\] )?((?:\w+\.)*\w*(?:Error|Exception)): (.{1,300})",
    re.MULTILINE,
)


def explain(log: str) -> dict[str, Any]:
    """Why a start failed, from the end of its log: {code, message, params, advice, permanent}."""
    for code, pattern, message, advice, permanent in ERRORS:
        if match := re.search(pattern, log, re.DOTALL):
            return {
                "code": code,
                "message": message,
                "params": match.groupdict(),
                "advice": advice,
                "permanent": permanent,
            }
    # The first error of a traceback is the cause; what follows only tells that the engine is gone.
    if found := ERROR_LINE.search(log):
        return {
            "code": "engine_failed",
            "message": N_("The engine stopped with an error: %(error)s"),
            "params": {"error": f"{found[1]}: {found[2].strip()}"},
            "advice": N_("The log says more. It is tried again by itself."),
            "permanent": False,
        }
    return {
        "code": "died",
        "message": N_("The engine ended without a word. Most often the machine ran out of memory."),
        "params": {},
        "advice": ADVICE_MEMORY,
        "permanent": False,
    }
