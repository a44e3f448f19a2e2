"""Serve one model with transformers' own server, and put right what it gets wrong.

Run with the training environment's Python. One process holds the server and this front, so
they live and die together. transformers 5.23 left to itself would
- take the first request's temperature for all that follow (continuous batching),
- ignore `logprobs`, `n`, `stop` and `response_format` in silence, and refuse harmless fields,
- answer /v1/models with an empty list, or fail if the hub's cache is missing,
- take more prompt than the model has context, and a chat template from the request,
- leave out `data: [DONE]`, which ends a stream for every OpenAI client.
"""

import argparse
import asyncio
import contextvars
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import CBGenerateManager, GenerationState
from transformers.utils import logging

from workers.engines.front import Front

GREEDY = 1e-4  # a temperature at which the likeliest token always wins
MOST_AT_ONCE = 64  # requests in a batch; the others wait


@dataclass(frozen=True)
class Wish:
    """What a request says that the server below would not pass on."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    ignore_eos: bool


wish: contextvars.ContextVar[Wish] = contextvars.ContextVar("wish")


def remember(body: dict[str, Any]) -> None:
    """Called by the front, in the request's own context."""
    wish.set(
        Wish(
            body.get("max_completion_tokens") or body.get("max_tokens"),
            body.get("temperature"),
            body.get("top_p"),
            body.get("top_k"),
            bool(body.get("ignore_eos")),
        )
    )


class Manager(CBGenerateManager):
    """Continuous batching in which each request keeps its own sampling and its own limits."""

    def __init__(
        self, config: ContinuousBatchingConfig, most: int, defaults: GenerationConfig
    ) -> None:
        super().__init__(cb_config=config)
        self.most = most  # tokens of prompt and answer
        self.defaults = defaults

    def init_cb(self, model: Any, gen_config: GenerationConfig) -> None:
        if self._cb:
            return
        # Values that switch the three samplers on; what counts is said with each request.
        gen_config.do_sample = True
        gen_config.temperature, gen_config.top_p, gen_config.top_k = 0.5, 0.5, 2
        super().init_cb(model, gen_config)
        batching: Any = self._cb
        add_request = batching.add_request
        vocabulary = model.config.get_text_config().vocab_size

        def add(*args: Any, **kwargs: Any) -> Any:
            return add_request(*args, **kwargs, **self.sampling(vocabulary))

        batching.add_request = add

    def sampling(self, vocabulary: int) -> dict[str, Any]:
        """Where the request is silent, what the model's own configuration says."""
        asked, own = wish.get(), self.defaults
        temperature, top_p, top_k = asked.temperature, asked.top_p, asked.top_k
        if temperature is None:
            temperature = (own.temperature or 1.0) if own.do_sample else 0.0
        if top_p is None:
            top_p = (own.top_p or 1.0) if own.do_sample else 1.0
        if top_k is None:
            top_k = (own.top_k or vocabulary) if own.do_sample else vocabulary
        if temperature == 0:
            temperature, top_p, top_k = GREEDY, 1.0, 1
        if top_k <= 0:
            top_k = vocabulary
        return {
            "temperature": max(float(temperature), GREEDY),
            "top_p": float(top_p),
            "top_k": min(top_k, vocabulary),
        }

    def fit(self, inputs: dict[str, Any], gen_config: GenerationConfig) -> None:
        """The context has an end, and says so in vLLM's words."""
        prompt, asked = len(inputs["input_ids"]), wish.get().max_tokens
        if prompt >= self.most or (asked and prompt + asked > self.most):
            raise HTTPException(
                400,
                f"This model's maximum context length is {self.most} tokens, but the prompt has "
                f"{prompt} and the answer may have {asked or 1}.",
            )
        gen_config.max_new_tokens = asked or self.most - prompt
        if wish.get().ignore_eos:
            gen_config.eos_token_id = -1

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *rest: Any, **more: Any
    ) -> Any:
        self.fit(inputs, gen_config)
        return super().generate_streaming(model, processor, inputs, gen_config, *rest, **more)

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> Any:
        self.fit(inputs, gen_config)
        try:
            return await super().generate_non_streaming(
                model, processor, inputs, gen_config, request_id
            )
        except asyncio.CancelledError:  # the client has left
            self._cb.cancel_request(request_id)
            raise


class State(GenerationState):
    """One model, one manager, made beforehand."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(continuous_batching=True)
        self._cb_manager = manager

    def get_manager(self, model_id: str, use_cb: bool = False) -> Any:  # noqa: ARG002
        if not use_cb:
            raise HTTPException(501, "This kind of model cannot be served by this engine.")
        return self._cb_manager


def build(args: argparse.Namespace, secret: str) -> Front:
    """Load the model and put the front before transformers' server."""
    print("danlu: loading", args.model, flush=True)  # noqa: T201  the log's phases
    logging.set_verbosity_error()  # or it writes a line for each request
    manager = ModelManager(
        device=args.device, continuous_batching=True, force_model=str(args.model)
    )
    model, processor = manager.load_model_and_processor(manager.process_model_name(str(args.model)))
    config = ContinuousBatchingConfig(
        page_size=args.page,
        num_blocks=args.blocks,
        max_batch_tokens=max(256, min(args.max_model_len, 2048)),
        max_requests_per_batch=MOST_AT_ONCE,
        per_request_processors=True,
    )
    state = State(Manager(config, args.max_model_len, model.generation_config))
    server = build_server(
        manager,
        ChatCompletionHandler(manager, state),
        CompletionHandler(manager, state),
        response_handler=None,  # the front lets nobody through to these
        transcription_handler=None,
        systemone_handler=None,
        generation_state=state,
    )
    say_what_is_wrong(server)
    has_template = getattr(processor, "chat_template", None) is not None
    return Front(
        server,
        name=args.name,
        model=str(args.model),
        secret=secret,
        max_model_len=args.max_model_len,
        chats=has_template,
        remember=remember,
    )


def say_what_is_wrong(server: FastAPI) -> None:
    """A template that refuses the messages is the caller's matter, not ours."""

    @server.exception_handler(TemplateError)
    async def refused(_request: Request, error: TemplateError) -> JSONResponse:
        return JSONResponse({"detail": f"The chat template refuses this: {error}"}, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what /v1 calls the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--blocks", type=int, default=256, help="of the key-value cache")
    parser.add_argument("--page", type=int, default=32, help="tokens in a block")
    args = parser.parse_args()
    secret = os.environ.pop("DANLU_ENGINE_SECRET")
    front = build(args, secret)
    uvicorn.run(
        front,
        host=args.host,
        port=args.port,
        access_log=False,
        timeout_graceful_shutdown=5,
        log_level="info",
    )
    os._exit(0)  # the batching thread would keep us for a while


if __name__ == "__main__":
    main()
