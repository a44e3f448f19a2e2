"""Conversations: kept per person and workspace, answered through the gateway."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.chat.schemas import Say
from app.chat.tables import ChatMessage, Conversation
from app.db import now
from app.errors import N_, Invalid, NotFound

TITLE_LENGTH = 60


@dataclass(frozen=True)
class Turn:
    """A question that is stored and waits for its answer."""

    conversation_id: str
    title: str
    number: int  # of the answer
    body: dict[str, Any]  # for /v1/chat/completions


def conversations(db: Session, who: Principal, limit: int = 100) -> Sequence[Conversation]:
    """The person's own, newest first."""
    return db.scalars(
        select(Conversation)
        .where(Conversation.workspace_id == who.workspace_id, Conversation.user_id == who.user_id)
        .order_by(Conversation.updated_at.desc())
        .limit(limit)
    ).all()


def get(db: Session, who: Principal, conversation_id: str) -> Conversation:
    found = db.get(Conversation, conversation_id)
    if not found or (found.workspace_id, found.user_id) != (who.workspace_id, who.user_id):
        raise NotFound
    return found


def messages(db: Session, conversation_id: str) -> Sequence[ChatMessage]:
    return db.scalars(
        select(ChatMessage)
        .where(ChatMessage.conversation_id == conversation_id)
        .order_by(ChatMessage.number)
    ).all()


def begin(db: Session, who: Principal, say: Say) -> Turn:
    """Store the question (or take back the last answer) and build the request for `/v1`."""
    content = say.content.strip()
    if not content and not say.regenerate:
        raise Invalid(N_("Write a message first."), field="content")
    if say.conversation:
        conversation = get(db, who, say.conversation)
    else:
        conversation = Conversation(
            workspace_id=who.workspace_id,
            user_id=who.user_id,
            title=" ".join(content.split())[:TITLE_LENGTH],
            model=say.model,
        )
        db.add(conversation)
    conversation.model = say.model
    conversation.settings = say.settings.model_dump(exclude_none=True)
    conversation.updated_at = now()
    db.flush()
    history = list(messages(db, conversation.id))
    if say.regenerate:
        while history and history[-1].role == "assistant":
            db.delete(history.pop())
        if not history:
            raise Invalid(N_("There is no message to answer."), field="content")
    else:
        question = ChatMessage(
            conversation_id=conversation.id,
            number=history[-1].number + 1 if history else 1,
            role="user",
            content=content,
        )
        db.add(question)
        history.append(question)
    return Turn(
        conversation.id, conversation.title, history[-1].number + 1, request_body(say, history)
    )


def request_body(say: Say, history: Sequence[ChatMessage]) -> dict[str, Any]:
    """The request for `/v1/chat/completions`. Two questions in a row (an answer that failed)
    are joined, since many chat templates insist on alternating turns.
    """
    turns: list[dict[str, Any]] = []
    if say.settings.system:
        turns.append({"role": "system", "content": say.settings.system})
    for message in history:
        if turns and turns[-1]["role"] == message.role:
            turns[-1]["content"] += "\n\n" + message.content
        else:
            turns.append({"role": message.role, "content": message.content})
    sampling = say.settings.model_dump(exclude_none=True, exclude={"system"})
    return {"model": say.model, "messages": turns, "stream": True, **sampling}


def answer(db: Session, turn: Turn, content: str, usage: dict[str, Any]) -> None:
    """Store what the model said, whole or as far as it came. Nothing said is not stored."""
    if not content or not db.get(Conversation, turn.conversation_id):
        return
    db.add(
        ChatMessage(
            conversation_id=turn.conversation_id,
            number=turn.number,
            role="assistant",
            content=content,
            usage=usage,
        )
    )


def remove(db: Session, who: Principal, conversation_id: str) -> None:
    conversation = get(db, who, conversation_id)
    db.execute(delete(ChatMessage).where(ChatMessage.conversation_id == conversation.id))
    db.delete(conversation)
