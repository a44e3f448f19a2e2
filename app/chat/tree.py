"""A conversation's tree: asking, answering, branching, and what a column shows of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import literal, or_, select, update
from sqlalchemy.orm import Session

from app.chat import search
from app.chat.schemas import AnswerTo, Column, Question
from app.chat.tables import ChatLane, ChatMessage, Conversation
from app.db import now
from app.errors import N_, Invalid, NotFound

PAGE = 30  # messages of a column at a time
LONGEST = 2000  # messages that a request may carry
TITLE_LENGTH = 60
NO_MESSAGE = N_("There is no such message.")


@dataclass(frozen=True)
class Turn:
    """An answer that is stored and waits for its words."""

    message_id: str
    body: dict[str, Any]  # for /v1/chat/completions


# -- looking -----------------------------------------------------------------------------


def lanes(db: Session, conversation_id: str) -> list[ChatLane]:
    query = select(ChatLane).where(ChatLane.conversation_id == conversation_id)
    return list(db.scalars(query.order_by(ChatLane.number)))


def message(db: Session, conversation_id: str, message_id: str) -> ChatMessage:
    found = db.get(ChatMessage, message_id)
    if found is None or found.conversation_id != conversation_id:
        raise NotFound(NO_MESSAGE)
    return found


def path(db: Session, head_id: str | None, limit: int = LONGEST) -> list[ChatMessage]:
    """From the root to `head_id`: its last `limit` messages."""
    if head_id is None:
        return []
    up = (
        select(ChatMessage.id, ChatMessage.parent_id, literal(1).label("depth"))
        .where(ChatMessage.id == head_id)
        .cte("up", recursive=True)
    )
    up = up.union_all(
        select(ChatMessage.id, ChatMessage.parent_id, up.c.depth + 1)
        .join(up, ChatMessage.id == up.c.parent_id)
        .where(up.c.depth < limit)
    )
    query = select(ChatMessage).join(up, up.c.id == ChatMessage.id)
    return list(db.scalars(query.order_by(up.c.depth.desc())))


def page(
    db: Session, conversation_id: str, lane: int, before: str = ""
) -> tuple[list[ChatMessage], bool]:
    """The last messages of a column, or those before one; and whether there are older ones."""
    if before:
        head = message(db, conversation_id, before).parent_id
    else:
        found = db.get(ChatLane, (conversation_id, lane))
        head = found.head_id if found else None
    shown = path(db, head, PAGE)
    return shown, bool(shown and shown[0].parent_id)


def branches(
    db: Session, conversation_id: str, shown: Sequence[ChatMessage]
) -> dict[str, list[str]]:
    """What stands in the place of each message, itself included, oldest first.

    Answers of other columns are no branches, as long as there are other columns.
    """
    alone = len(lanes(db, conversation_id)) < 2
    parents = {one.parent_id for one in shown}
    query = (
        select(ChatMessage.id, ChatMessage.parent_id, ChatMessage.role, ChatMessage.lane)
        .where(ChatMessage.conversation_id == conversation_id)
        .where(
            or_(
                ChatMessage.parent_id.in_([one for one in parents if one]),
                ChatMessage.parent_id.is_(None) if None in parents else literal(False),
            )
        )
        .order_by(ChatMessage.created_at, ChatMessage.id)
    )
    places: dict[Any, list[str]] = {}
    place_of = {}
    for message_id, parent, role, lane in db.execute(query):
        place_of[message_id] = (parent, role, 0 if alone or role == "user" else lane)
        places.setdefault(place_of[message_id], []).append(message_id)
    return {one.id: places[place_of[one.id]] for one in shown}


# -- asking ------------------------------------------------------------------------------


def ask(db: Session, conversation: Conversation, question: Question) -> list[tuple[int, str]]:
    """Store the question under what each column shows; (column, question's id) of each.

    Columns that show the same share one question. With `edits` only the columns that show that
    question are asked.
    """
    content = question.content.strip()
    if not content:
        raise Invalid(N_("Write a message first."), field="content")
    columns = arrange(db, conversation, question.columns)
    if question.edits:
        old = message(db, conversation.id, question.edits)
        if old.role != "user":
            raise Invalid(N_("Only a question can be asked anew."), field="edits")
        columns = [one for one in columns if any(m.id == old.id for m in path(db, one.head_id))]
        under: dict[int, str | None] = {one.number: old.parent_id for one in columns}
    else:
        under = {one.number: one.head_id for one in columns}
    made: dict[str | None, ChatMessage] = {}
    for column in columns:
        parent = under[column.number]
        if parent not in made:
            made[parent] = ChatMessage(
                conversation_id=conversation.id,
                parent_id=parent,
                role="user",
                content=content,
                grams=search.grams(content),
            )
            db.add(made[parent])
            db.flush()
        column.head_id = made[parent].id
    conversation.updated_at = now()
    return [(one.number, str(one.head_id)) for one in columns]


def arrange(db: Session, conversation: Conversation, wanted: Sequence[Column]) -> list[ChatLane]:
    """The columns as they are wanted. A new one begins where the first stands."""
    found = {one.number: one for one in lanes(db, conversation.id)}
    first = next((one.head_id for one in found.values()), None)
    columns = []
    for one in wanted:
        column = found.pop(one.lane, None)
        if column is None:
            column = ChatLane(
                conversation_id=conversation.id, number=one.lane, model=one.model, head_id=first
            )
            db.add(column)
        column.model = one.model
        columns.append(column)
    for gone in found.values():
        db.delete(gone)
    db.flush()
    return columns


def title_of(content: str) -> str:
    return " ".join(content.split())[:TITLE_LENGTH]


# -- answering ---------------------------------------------------------------------------


def begin(
    db: Session, conversation: Conversation, asked: AnswerTo, *, patient: bool = True
) -> Turn | None:
    """Store an answer without words and build the request for it.

    None while an answer before it, just stopped, is still being stored, if there is time to wait.
    """
    question = message(db, conversation.id, asked.question)
    if question.role != "user":
        raise Invalid(N_("Only a question can be answered."), field="question")
    column = db.get(ChatLane, (conversation.id, asked.lane), with_for_update=True)
    if column is None:
        raise NotFound(N_("There is no such column."))
    said = path(db, question.id)
    if patient and any(one.state == "streaming" for one in said):
        return None
    for empty in empty_answers(db, question.id, asked.lane):
        db.execute(update(ChatLane).where(ChatLane.head_id == empty.id).values(head_id=question.id))
        db.delete(empty)
    stored = asked.settings.stored()
    answer = ChatMessage(
        conversation_id=conversation.id,
        parent_id=question.id,
        role="assistant",
        lane=asked.lane,
        model=asked.model,
        settings=stored,
        state="streaming",
    )
    db.add(answer)
    db.flush()
    column.model, column.head_id = asked.model, answer.id
    conversation.settings = stored
    conversation.updated_at = now()
    return Turn(answer.id, {**request(asked.model, stored, said), "stream": True})


def empty_answers(db: Session, question_id: str, lane: int) -> list[ChatMessage]:
    """Failures of this column on which nothing was built: another try takes their place."""
    child = select(ChatMessage.parent_id).where(ChatMessage.parent_id.is_not(None))
    query = select(ChatMessage).where(
        ChatMessage.parent_id == question_id,
        ChatMessage.role == "assistant",
        ChatMessage.lane == lane,
        ChatMessage.state != "streaming",
        ChatMessage.content == "",
        ChatMessage.reasoning == "",
        ChatMessage.id.not_in(child),
    )
    return list(db.scalars(query))


def request(model: str, settings: dict[str, Any], said: Sequence[ChatMessage]) -> dict[str, Any]:
    """The request for `/v1/chat/completions` that continues `said`."""
    sampling = {name: value for name, value in settings.items() if name != "system"}
    return {"model": model, "messages": turns(settings.get("system", ""), said), **sampling}


def turns(system: str, said: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as `/v1` takes them. Two questions in a row (an answer that failed) are joined,
    since many chat templates insist on alternating turns. Reasoning is not sent again.
    """
    found: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for one in said:
        if not one.content:
            continue
        if found and found[-1]["role"] == one.role:
            found[-1]["content"] += "\n\n" + one.content
        else:
            found.append({"role": one.role, "content": one.content})
    return found


def finish(
    db: Session,
    message_id: str,
    *,
    content: str,
    reasoning: str,
    state: str,
    usage: dict[str, Any],
    error: dict[str, Any] | None,
) -> None:
    """Store what the model said, whole or as far as it came."""
    answer = db.get(ChatMessage, message_id, with_for_update=True)
    if answer is None:
        return  # the conversation was deleted meanwhile
    answer.content, answer.reasoning = content.replace("\0", ""), reasoning.replace("\0", "")
    answer.grams = search.grams(answer.content)
    answer.state, answer.usage, answer.error = state, usage, error


# -- branches ----------------------------------------------------------------------------


def show(db: Session, conversation: Conversation, lane: int, message_id: str) -> None:
    """Turn a column to the branch of `message_id`: as far down as it goes, the newest first."""
    column = db.get(ChatLane, (conversation.id, lane), with_for_update=True)
    if column is None:
        raise NotFound(N_("There is no such column."))
    found = message(db, conversation.id, message_id)
    query = select(ChatMessage.id, ChatMessage.parent_id, ChatMessage.lane).where(
        ChatMessage.conversation_id == conversation.id
    )
    below: dict[str | None, str] = {}
    own: dict[str | None, str] = {}
    for child, parent, of in db.execute(query.order_by(ChatMessage.created_at, ChatMessage.id)):
        below[parent] = child
        if of == lane:
            own[parent] = child
    head = found.id
    while down := own.get(head) or below.get(head):
        head = down
    column.head_id = head
