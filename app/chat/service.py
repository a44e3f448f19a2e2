"""Conversations: kept per person and workspace, searched, shared for reading, deleted."""

from typing import Any

from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.chat import search, tree
from app.chat.schemas import Change, ConversationOut, Preset, Question
from app.chat.tables import ChatLane, ChatMessage, ChatPreset, Conversation
from app.db import now
from app.deployments import service as deployments
from app.errors import N_, Conflict, NotFound
from app.models import service as models

MOST_PRESETS = 100
NO_CONVERSATION = N_("There is no such conversation.")


def own(who: Principal) -> Any:
    """The condition on Conversation: the person's."""
    return and_(Conversation.workspace_id == who.workspace_id, Conversation.user_id == who.user_id)


def shared(who: Principal) -> Any:
    return and_(Conversation.workspace_id == who.workspace_id, Conversation.shared_at.is_not(None))


# -- finding -----------------------------------------------------------------------------


def get(db: Session, who: Principal, conversation_id: str, *, lock: bool = False) -> Conversation:
    """To go on with it: the person's own. Raises NotFound."""
    query = select(Conversation).where(Conversation.id == conversation_id, own(who))
    found = db.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound(NO_CONVERSATION)
    return found


def readable(db: Session, who: Principal, conversation_id: str) -> Conversation:
    """The person's own, or shared in their workspace. Raises NotFound."""
    query = select(Conversation).where(
        Conversation.id == conversation_id, or_(own(who), shared(who))
    )
    found = db.scalar(query)
    if found is None:
        raise NotFound(NO_CONVERSATION)
    return found


def conversations(
    db: Session,
    who: Principal,
    *,
    q: str = "",
    of: str = "",
    after: str = "",
    offset: int = 0,
    limit: int = 30,
) -> tuple[list[ConversationOut], bool]:
    """The last changed first, and whether there are more: the person's own, or (`of` "shared")
    what others share. `q` is sought in titles and in what was said.
    """
    seen = and_(shared(who), Conversation.user_id != who.user_id) if of == "shared" else own(who)
    query = here = select(Conversation).where(seen)
    words = q.split()
    if words:
        titled = and_(*(Conversation.title.icontains(word, autoescape=True) for word in words))
        said = (
            select(ChatMessage.conversation_id)
            .join(Conversation, Conversation.id == ChatMessage.conversation_id)
            .where(seen, search.contains(q))
        )
        query = query.where(or_(titled, Conversation.id.in_(said)))
    order = [Conversation.updated_at.desc()]
    query = paging.behind(db, query, here, order, Conversation.id, after)
    found = list(db.scalars(query.offset(offset).limit(limit + 1)))
    ids = [one.id for one in found[:limit]]
    names = models_of(db, ids)
    around = snippets(db, ids, q) if words else {}
    listed = [
        ConversationOut.of(one, names.get(one.id, []), who.user_id, around.get(one.id, ""))
        for one in found[:limit]
    ]
    return listed, len(found) > limit


def models_of(db: Session, ids: list[str]) -> dict[str, list[str]]:
    """The models of each conversation's columns."""
    found: dict[str, list[str]] = {}
    query = select(ChatLane.conversation_id, ChatLane.model).where(
        ChatLane.conversation_id.in_(ids)
    )
    for conversation_id, model in db.execute(query.order_by(ChatLane.number)):
        found.setdefault(conversation_id, []).append(model)
    return found


def snippets(db: Session, ids: list[str], q: str) -> dict[str, str]:
    """What each conversation says around the words, of its newest message with them."""
    query = (
        select(ChatMessage.conversation_id, ChatMessage.content)
        .where(ChatMessage.conversation_id.in_(ids), search.contains(q))
        .order_by(ChatMessage.created_at)
        .limit(500)
    )
    return {found: search.snippet(content, q) for found, content in db.execute(query)}


def out(db: Session, who: Principal, one: Conversation) -> ConversationOut:
    return ConversationOut.of(one, models_of(db, [one.id]).get(one.id, []), who.user_id)


# -- changing ----------------------------------------------------------------------------


def ask(
    db: Session, who: Principal, question: Question
) -> tuple[Conversation, list[tuple[int, str]]]:
    """Store a question, in a conversation or as the first of a new one (`tree.ask`)."""
    if question.conversation:
        conversation = get(db, who, question.conversation, lock=True)
    else:
        conversation = Conversation(
            workspace_id=who.workspace_id,
            user_id=who.user_id,
            title=tree.title_of(question.content),
        )
        db.add(conversation)
        db.flush()
    conversation.settings = question.settings.stored()
    return conversation, tree.ask(db, conversation, question)


def change(db: Session, who: Principal, conversation_id: str, to: Change) -> Conversation:
    """Rename it; share it for reading, or no more."""
    conversation = get(db, who, conversation_id)
    if to.title is not None:
        conversation.title = " ".join(to.title.split()) or conversation.title
    if to.shared is not None:
        conversation.shared_at = (conversation.shared_at or now()) if to.shared else None
    return conversation


def remove(db: Session, who: Principal, conversation_id: str) -> None:
    conversation = get(db, who, conversation_id, lock=True)
    for table in (ChatLane, ChatMessage):
        db.execute(delete(table).where(table.conversation_id == conversation.id))
    db.delete(conversation)


# -- presets -----------------------------------------------------------------------------


def presets(db: Session, who: Principal) -> list[ChatPreset]:
    """The person's, by name."""
    query = select(ChatPreset).where(
        ChatPreset.workspace_id == who.workspace_id, ChatPreset.user_id == who.user_id
    )
    return list(db.scalars(query.order_by(func.lower(ChatPreset.name))))


def keep(db: Session, who: Principal, preset: Preset) -> ChatPreset:
    """Keep settings under a name; what had that name is replaced."""
    found = presets(db, who)
    kept = next((one for one in found if one.name == preset.name), None)
    if kept is None:
        if len(found) >= MOST_PRESETS:
            raise Conflict(
                N_("There are %(most)s presets already. Delete one first."),
                code="too_many",
                most=MOST_PRESETS,
            )
        kept = ChatPreset(workspace_id=who.workspace_id, user_id=who.user_id, name=preset.name)
        db.add(kept)
    kept.settings = preset.settings.stored()
    db.flush()
    return kept


def drop(db: Session, who: Principal, preset_id: str) -> None:
    found = next((one for one in presets(db, who) if one.id == preset_id), None)
    if found is None:
        raise NotFound(N_("There is no such preset."))
    db.delete(found)


# -- which names answer for a model --------------------------------------------------------


def answering(db: Session, workspace_id: str, name: str) -> str:
    """The name at `/v1` that is meant: this one, or that of a model of the registry."""
    if any(one.name == name for one in deployments.names(db, workspace_id)):
        return name
    try:
        found = models.get(db, workspace_id, name)
    except NotFound:
        return name
    return next(iter(names_of(db, workspace_id, found.id)), name)


def beside(db: Session, workspace_id: str, name: str) -> tuple[list[str], str]:
    """The names to compare for a tuned model: where its base answers, then where it does itself.

    `name` is a name at `/v1` or a model of the registry. With it the base model's name, if
    nothing serves that one.
    """
    name = answering(db, workspace_id, name)
    served = next((one for one in deployments.names(db, workspace_id) if one.name == name), None)
    if served is not None:
        deployment = deployments.get(db, workspace_id, served.deployment_id)
        tuned = models.known(db, workspace_id, deployment.model_id)
    else:
        try:
            tuned = models.get(db, workspace_id, name)
        except NotFound:
            return [name], ""
    if tuned.base_id is None:
        return [name], ""
    base = models.known(db, workspace_id, tuned.base_id)
    found = names_of(db, workspace_id, base.id)[:1]
    return [*found, name], "" if found else base.name


def names_of(db: Session, workspace_id: str, model_id: str) -> list[str]:
    """Where a model answers: names at `/v1`."""
    found, _ = deployments.list_deployments(db, workspace_id, model_id=model_id)
    alive = {one.deployment_id for one in deployments.names(db, workspace_id)}
    return [one.name for one in found if one.id in alive and one.model_id == model_id]
