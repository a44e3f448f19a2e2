"""`danlu chat`: talk to a deployment."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from app.cli import complete
from app.cli.client import Api, Failed, Row, connect, reaching
from app.cli.output import plain, show_json, tell
from app.cli.text import _


def chat(
    model: Annotated[str, typer.Argument(help=_("A name at /v1."), autocompletion=complete.served)],
    message: Annotated[
        str,
        typer.Argument(help=_("Ask this and leave; - is what is piped in. Left out: talk.")),
    ] = "",
    system: Annotated[str, typer.Option(help=_("A system prompt."))] = "",
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help=_("Print the API's answer to one message as JSON."))
    ] = False,
) -> None:
    api = connect()
    settings = {"temperature": temperature, "max_tokens": max_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    start: list[Row] = [{"role": "system", "content": system}] if system else []
    if message == "-" or (not message and as_json):
        message = sys.stdin.read()
    if as_json:
        body = {"model": model, "messages": [*start, asked(message)], **settings}
        show_json(api.post("/v1/chat/completions", body))
    elif message:
        print_answer(api, model, [*start, asked(message)], settings)
    else:
        talk(api, model, start, settings)


def asked(text: str) -> Row:
    return {"role": "user", "content": text}


def talk(api: Api, model: str, start: list[Row], settings: Row) -> None:
    """Turns until the end of the input. An answer that was cut off with Ctrl-C is kept as it is."""
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401 - line editing and history for input()

        tell(_("/clear forgets what was said, Ctrl-C stops an answer, Ctrl-D leaves."))
    turns = list(start)
    while True:
        try:
            text = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            if typed:
                tell("")
            return
        if text == "/clear":
            turns = list(start)
        elif text:
            turns.append(asked(text))
            try:
                said = print_answer(api, model, turns, settings)
            except Failed as error:
                if not typed:
                    raise
                tell(str(error))
                turns.pop()
            else:
                turns.append({"role": "assistant", "content": said})


def print_answer(api: Api, model: str, turns: list[Row], settings: Row) -> str:
    said = []
    try:
        for piece in pieces(api, {"model": model, "messages": turns, **settings}):
            said.append(piece)
            sys.stdout.write(plain(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    sys.stdout.write("\n")
    return "".join(said)


def pieces(api: Api, body: dict[str, Any]) -> Iterator[str]:
    """What the model says, as it says it. Raises Failed."""
    with (
        reaching(api.url),
        api.streamed("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer,
    ):
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise Failed(event["error"]["message"])
            for choice in event["choices"][:1]:
                yield choice["delta"].get("content") or ""
