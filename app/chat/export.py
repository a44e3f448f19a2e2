"""A conversation to take away, and the program behind an answer."""

import json
import re
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.chat import tree
from app.chat.schemas import Code
from app.chat.tables import ChatMessage, Conversation
from app.config import settings
from app.deployments import samples

ENGINE_ONLY = ("top_k", "min_p", "repetition_penalty")  # unknown to the openai package
PYTHON = """\
# pip install openai
import os
from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["DANLU_API_KEY"])
stream = client.chat.completions.create(
{arguments}
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
"""


def as_json(db: Session, conversation: Conversation) -> dict[str, Any]:
    """The whole tree: every branch and column."""
    query = select(ChatMessage).where(ChatMessage.conversation_id == conversation.id)
    messages = db.scalars(query.order_by(ChatMessage.created_at, ChatMessage.id))
    return {
        "id": conversation.id,
        "title": conversation.title,
        "settings": conversation.settings,
        "created_at": conversation.created_at.isoformat(),
        "columns": [
            {"lane": one.number, "model": one.model, "head": one.head_id}
            for one in tree.lanes(db, conversation.id)
        ],
        "messages": [
            {
                "id": one.id,
                "parent": one.parent_id,
                "role": one.role,
                "content": one.content,
                "created_at": one.created_at.isoformat(),
            }
            | (answer(one) if one.role == "assistant" else {})
            for one in messages
        ],
    }


def answer(one: ChatMessage) -> dict[str, Any]:
    return {
        "lane": one.lane,
        "model": one.model,
        "settings": one.settings,
        "reasoning": one.reasoning,
        "state": one.state,
        "usage": one.usage,
        "rating": one.rating,
        "correction": one.correction,
        "chosen_over": one.chosen_over,
    }


def as_markdown(db: Session, conversation: Conversation) -> str:
    """What the columns show, one after the other."""
    parts = [f"# {line(conversation.title)}"]
    if system := conversation.settings.get("system"):
        parts.append(quote(system))
    columns = tree.lanes(db, conversation.id)
    for column in columns:
        if len(columns) > 1:
            parts.append(f"# {line(column.model)}")
        for one in tree.path(db, column.head_id):
            who = "User" if one.role == "user" else line(one.model)
            parts.append(f"## {who}\n\n{one.content}")
            if one.correction:
                parts.append(f"### Correction\n\n{one.correction}")
    return "\n\n".join(parts) + "\n"


def line(text: str) -> str:
    return " ".join(text.split())


def quote(text: str) -> str:
    return "\n".join(f"> {row}" for row in text.splitlines())


def file_name(conversation: Conversation) -> str:
    """Without an extension: what the title has of letters and digits."""
    return re.sub(r"[^\w]+", "-", conversation.title).strip("-")[:80] or conversation.id


def code(db: Session, message: ChatMessage) -> list[Code]:
    """Programs that make the call to which this is the answer, each with its settings."""
    said = tree.path(db, message.parent_id)
    body = tree.request(message.model, message.settings, said)
    url = f"{settings.url}/v1/chat/completions"
    text = json.dumps(body, ensure_ascii=False)
    return [
        Code(id="curl", label="curl", text=samples.CURL.format(url=url, body=shell(body))),
        Code(id="python", label="Python", text=python(body)),
        Code(
            id="java",
            label="Java",
            text=samples.JAVA.format(url=json.dumps(url), body=json.dumps(text)),
        ),
    ]


def shell(body: dict[str, Any]) -> str:
    """JSON to stand between single quotes."""
    return json.dumps(body, ensure_ascii=False, indent=2).replace("'", "'\\''")


def python(body: dict[str, Any]) -> str:
    given = {name: value for name, value in body.items() if name not in ENGINE_ONLY}
    extra = {name: value for name, value in body.items() if name in ENGINE_ONLY}
    if extra:
        given["extra_body"] = extra
    lines = []
    for name, value in given.items():
        written = json.dumps(value, ensure_ascii=False, indent=4).replace("\n", "\n    ")
        lines.append(f"    {name}={written},")
    return PYTHON.format(url=json.dumps(f"{settings.url}/v1"), arguments="\n".join(lines))
