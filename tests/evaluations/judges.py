"""An engine that judges what the engines of `people` say."""

import json
import re

from aiohttp import web

from tests.gateway.engines import Engine


def parts(text: str) -> dict[str, str]:
    """The material of a judge's request, by its place."""
    found = re.findall(r"<(\w+) ([0-9a-f]{12})>\n(.*?)\n</\1 \2>", text, re.DOTALL)
    return {name: said for name, _, said in found}


class Wise(Engine):
    """A judge that knows the reference; `nonsense` of these rows, `always` or only at first.
    `refuses`: fields that it does not know, and with which status it says so.
    """

    def __init__(self, nonsense=(), *, always=False, refuses=(), status=400, favours=""):
        super().__init__()
        self.nonsense, self.always, self.favours = nonsense, always, favours
        self.refuses, self.status = set(refuses), status
        self.seen: list[dict] = []

    async def whole(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        if self.refuses & body.keys():
            return web.json_response({"error": {"message": "no such thing"}}, status=self.status)
        text = body["messages"][-1]["content"]
        said = parts(text)
        number = int(said["question"].split("条")[0][1:])
        if number in self.nonsense and (self.always or body["temperature"] == 0):
            reply = 'I think {"scores": "excellent"}!'
        elif "answer_a" in said:
            good = [said[one].startswith(said["reference"]) for one in ("answer_a", "answer_b")]
            winner = "tie" if good[0] == good[1] else "AB"[good[1]]
            reply = json.dumps({"reason": f"{number}", "winner": self.favours or winner})
        else:
            mark = 5 if said["answer"].startswith(said["reference"]) else 1
            names = re.findall(r"^- (.+?): ", text, re.MULTILINE)
            scores = dict.fromkeys(names, mark) | {names[0]: 3}
            reply = "```json\n" + json.dumps({"reason": "因为", "scores": scores}) + "\n```"
        message = {"role": "assistant", "content": reply}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})


class Embedder(Engine):
    """Embeddings that tell how many characters of each kind a text has."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[list[str]] = []

    async def whole(self, request: web.Request) -> web.StreamResponse:
        texts = (await request.json())["input"]
        self.pairs.append(texts)
        data = [{"index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
        usage = {"prompt_tokens": 6, "total_tokens": 6}
        return web.json_response({"data": data[::-1], "usage": usage})


def vector(text: str) -> list[float]:
    found = [0.0] * 8
    for char in text:
        found[ord(char) % 8] += 1
    return found
