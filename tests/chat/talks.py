"""Conversations for tests, made through the services, answers included."""

from typing import Any

from sqlalchemy.orm import Session

from app.accounts.auth import Principal
from app.chat import service, tree
from app.chat.schemas import AnswerTo, Column, Question
from app.chat.tables import ChatMessage, Conversation


def ask(
    db: Session,
    who: Principal,
    content: str,
    *models: str,
    conversation: str | None = None,
    edits: str | None = None,
    **settings: Any,
) -> tuple[Conversation, list[tuple[int, str]]]:
    columns = [Column(lane=lane, model=model) for lane, model in enumerate(models or ("m",))]
    question = Question(
        conversation=conversation,
        content=content,
        columns=columns,
        settings=settings,
        edits=edits,
    )
    made = service.ask(db, who, question)
    db.flush()
    return made


def answer(
    db: Session,
    conversation: Conversation,
    question: str,
    content: str,
    *,
    lane: int = 0,
    model: str = "m",
    reasoning: str = "",
    state: str = "done",
) -> ChatMessage:
    asked = AnswerTo(question=question, lane=lane, model=model, settings=conversation.settings)
    turn = tree.begin(db, conversation, asked)
    assert turn is not None
    tree.finish(
        db,
        turn.message_id,
        content=content,
        reasoning=reasoning,
        state=state,
        usage={"completion_tokens": 3, "prompt_tokens": 5, "first_token_ms": 20},
        error={"code": "x", "message": "Nobody is there.", "params": {}}
        if state == "failed"
        else None,
    )
    db.flush()
    return tree.message(db, conversation.id, turn.message_id)


def said(
    db: Session, who: Principal, *turns: tuple[str, str], **settings: Any
) -> tuple[Conversation, list[ChatMessage]]:
    """A conversation of one column, and its answers."""
    conversation, answers = None, []
    for question, content in turns:
        at = conversation.id if conversation else None
        conversation, asked = ask(db, who, question, conversation=at, **settings)
        answers.append(answer(db, conversation, asked[0][1], content))
    assert conversation is not None
    return conversation, answers


def texts(db: Session, conversation: Conversation, lane: int = 0) -> list[str]:
    """What a column shows."""
    return [one.content for one in tree.page(db, conversation.id, lane)[0]]
