"""Judged answers, and the datasets they make.

SFT learns from 👍 and corrections; preference pairs set a correction, a chosen column or a better
regeneration against what was rejected, for the very same prompt; KTO takes the labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from app import paging
from app.accounts.auth import Principal
from app.chat import search, service, tree
from app.chat.schemas import DatasetFrom, Feedback, RatedOut, Wanted
from app.chat.tables import ChatMessage, Conversation
from app.datasets import service as datasets
from app.datasets import work
from app.datasets.drafts import edits
from app.datasets.intake.upload import Upload, part, scratch
from app.datasets.states import DRAFT
from app.datasets.tables import DatasetVersion
from app.db import now
from app.errors import N_, Conflict, Invalid, NotFound
from app.queue import transaction

MOST = 20_000  # judged answers that one dataset is made of
KINDS = ("sft", "preference", "kto")
Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What judged answers give, by kind; and how many of them give nothing of that kind."""

    by_kind: dict[str, list[Row]]
    left_out: dict[str, int]


# -- judging -----------------------------------------------------------------------------


def judge(
    db: Session, who: Principal, conversation_id: str, message_id: str, said: Feedback
) -> ChatMessage:
    """Rate an answer, correct it, or choose it over others to the same question.

    Only what `said` names is changed. Raises NotFound, Invalid.
    """
    conversation = service.get(db, who, conversation_id)
    answer = tree.message(db, conversation.id, message_id)
    if answer.role != "assistant":
        raise Invalid(N_("Only an answer can be rated."), field="message")
    given = said.model_fields_set
    if "rating" in given:
        answer.rating = said.rating
    if "correction" in given:
        better = (said.correction or "").strip().replace("\0", "")
        answer.correction = better if better and better != answer.content.strip() else None
    if "chosen_over" in given:
        others = [tree.message(db, conversation.id, other) for other in said.chosen_over]
        if any(other.role != "assistant" or other.id == answer.id for other in others):
            raise Invalid(N_("An answer is chosen over other answers."), field="chosen_over")
        for other in others:
            other.chosen_over = [one for one in other.chosen_over if one != answer.id]
            other.rated_at = now() if judged(other) else None
        answer.chosen_over = [other.id for other in others]
    answer.rated_at = now() if judged(answer) else None
    return answer


def judged(answer: ChatMessage) -> bool:
    return bool(answer.rating or answer.correction or answer.chosen_over)


# -- finding -----------------------------------------------------------------------------


def matching(who: Principal, wanted: Wanted) -> Select[ChatMessage, Conversation]:
    """Judged answers of one's own conversations and of the shared ones."""
    query = (
        select(ChatMessage, Conversation)
        .join(Conversation, Conversation.id == ChatMessage.conversation_id)
        .where(ChatMessage.rated_at.is_not(None), or_(service.own(who), service.shared(who)))
    )
    conditions = {
        "up": ChatMessage.rating == 1,
        "down": ChatMessage.rating == -1,
        "corrected": ChatMessage.correction.is_not(None),
        "chosen": func.jsonb_array_length(ChatMessage.chosen_over) > 0,
    }
    if wanted.rating:
        query = query.where(conditions[wanted.rating])
    if wanted.model:
        query = query.where(ChatMessage.model == wanted.model)
    if wanted.days:
        query = query.where(ChatMessage.rated_at >= now() - timedelta(days=wanted.days))
    if words := wanted.q.split():
        titled = and_(*(Conversation.title.icontains(word, autoescape=True) for word in words))
        query = query.where(or_(titled, search.contains(wanted.q)))
    if wanted.ids:
        query = query.where(ChatMessage.id.in_(wanted.ids))
    return query


def rated(
    db: Session,
    who: Principal,
    wanted: Wanted,
    *,
    after: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[RatedOut], int]:
    """The last judged first, and how many match."""
    query = matching(who, wanted)
    total = db.scalar(select(func.count()).select_from(query.subquery())) or 0
    order = [ChatMessage.rated_at.desc()]
    newest = paging.behind(db, query, matching(who, Wanted()), order, ChatMessage.id, after)
    found = list(db.execute(newest.offset(offset).limit(limit)))
    parents = [answer.parent_id for answer, _ in found]
    asked = select(ChatMessage.id, ChatMessage.content).where(ChatMessage.id.in_(parents))
    questions: dict[str | None, str] = {one.id: one.content for one in db.execute(asked)}
    listed = [
        RatedOut(
            id=answer.id,
            conversation=conversation.id,
            title=conversation.title,
            model=answer.model,
            question=questions.get(answer.parent_id, ""),
            answer=answer.content,
            rating=answer.rating,
            correction=answer.correction,
            chosen_over=answer.chosen_over,
            rated_at=answer.rated_at,
        )
        for answer, conversation in found
    ]
    return listed, total


def models(db: Session, who: Principal) -> list[str]:
    """Whose answers were judged."""
    found = matching(who, Wanted()).with_only_columns(ChatMessage.model).distinct()
    return sorted(db.scalars(found))


# -- rows --------------------------------------------------------------------------------


def rows(db: Session, who: Principal, wanted: Wanted) -> Rows:
    """What the judged answers that match give, in the order of judging.

    Raises NotFound for an id that is none of them, Conflict if they are too many.
    """
    query = matching(who, wanted).order_by(ChatMessage.rated_at, ChatMessage.id)
    found = [answer for answer, _ in db.execute(query.limit(MOST + 1))]
    if wanted.ids and len(found) != len(set(wanted.ids)):
        raise NotFound(tree.NO_MESSAGE)
    if len(found) > MOST:
        raise Conflict(
            N_("More than %(most)s rated answers match. Narrow the choice."),
            code="too_many",
            most=MOST,
        )
    said = surroundings(db, found)
    beside: dict[str, list[ChatMessage]] = {}
    for one in said.values():
        if one.role == "assistant" and one.content:
            beside.setdefault(str(one.parent_id), []).append(one)
    made = Rows({kind: [] for kind in KINDS}, dict.fromkeys(KINDS, 0))
    seen: set[bytes] = set()
    for answer in found:
        prompt = before(answer, said)
        given = {
            "sft": sft(answer, prompt),
            "preference": preferences(answer, prompt, beside.get(str(answer.parent_id), [])),
            "kto": kto(answer, prompt),
        }
        for kind, several in given.items():
            made.left_out[kind] += not several
            for row in several:
                if (line := orjson.dumps([kind, row])) not in seen:
                    seen.add(line)
                    made.by_kind[kind].append(row)
    return made


def surroundings(db: Session, found: Sequence[ChatMessage]) -> dict[str, ChatMessage]:
    """Every message of the conversations in which these stand, by id, the oldest first."""
    query = select(ChatMessage).where(
        ChatMessage.conversation_id.in_({one.conversation_id for one in found})
    )
    ordered = query.order_by(ChatMessage.created_at, ChatMessage.id)
    return {one.id: one for one in db.scalars(ordered)}


def before(answer: ChatMessage, said: dict[str, ChatMessage]) -> list[ChatMessage]:
    """What an answer answers, from the beginning."""
    prompt = []
    at = answer.parent_id
    while at is not None:
        prompt.append(said[at])
        at = said[at].parent_id
    return prompt[::-1]


def sft(answer: ChatMessage, prompt: Sequence[ChatMessage]) -> list[Row]:
    """The conversation up to the answer, of which only that one is learned."""
    if not answer.correction and (answer.rating != 1 or not answer.content):
        return []
    messages = asked(answer, prompt)
    for one in messages:
        if one["role"] == "assistant":
            one["weight"] = 0
    last = spoken(answer.correction or answer.content)
    if answer.reasoning and not answer.correction:
        last["reasoning_content"] = answer.reasoning
    return [{"messages": [*messages, last]}]


def preferences(
    answer: ChatMessage, prompt: Sequence[ChatMessage], beside: Sequence[ChatMessage]
) -> list[Row]:
    """Pairs in which this answer is the better one, or is corrected."""
    best = answer.correction or answer.content
    worse = [answer.content] if answer.correction else []
    for other in beside:
        same_prompt = other.settings.get("system") == answer.settings.get("system")
        lost = other.id in answer.chosen_over or (answer.rating == 1 and other.rating == -1)
        if lost and same_prompt and other.id != answer.id:
            worse.append(other.content)
    messages = asked(answer, prompt)
    return [
        {"messages": messages, "chosen": spoken(best), "rejected": spoken(rejected)}
        for rejected in worse
        if rejected.strip() and rejected.strip() != best.strip()
    ]


def kto(answer: ChatMessage, prompt: Sequence[ChatMessage]) -> list[Row]:
    """The answer with its label; a correction is a good answer, and what it corrects a bad one."""
    messages = asked(answer, prompt)
    made = []
    label = answer.rating or (-1 if answer.correction else None)
    if label and answer.content:
        made.append({"messages": [*messages, spoken(answer.content)], "label": label == 1})
    if answer.correction:
        made.append({"messages": [*messages, spoken(answer.correction)], "label": True})
    return made


def asked(answer: ChatMessage, prompt: Sequence[ChatMessage]) -> list[Row]:
    return tree.turns(answer.settings.get("system", ""), prompt)


def spoken(content: str) -> Row:
    return {"role": "assistant", "content": content}


# -- datasets ----------------------------------------------------------------------------


def drafts(db: Session, who: Principal) -> list[DatasetVersion]:
    """Those that rows can be added to."""
    found, _ = datasets.list_datasets(db, who.workspace_id, status=DRAFT, limit=100)
    return [one for one in found if one.kind in KINDS and one.dataset.workspace_id]


def make(who: Principal, wanted: DatasetFrom) -> tuple[DatasetVersion, int, int]:
    """A validated draft of the judged answers that match, or more rows in a draft: it, the rows
    that came of them, and how many answers gave none. Raises Conflict, NotFound, Invalid.
    """
    with transaction() as db:
        if wanted.dataset:
            target = datasets.version(db, who.workspace_id, wanted.dataset)
            if target.kind != wanted.kind:
                raise Conflict(
                    N_("The draft has rows of another kind (%(kind)s)."),
                    code="other_kind",
                    kind=target.kind,
                )
        found = rows(db, who, wanted)
    made, left_out = found.by_kind[wanted.kind], found.left_out[wanted.kind]
    if not made:
        raise Conflict(N_("These answers give no row of this kind."), code="no_rows")
    if wanted.dataset:
        return more(who, wanted.dataset, made), len(made), left_out
    return work.take(who, written(made, wanted)), len(made), left_out


def written(made: Iterable[Row], wanted: DatasetFrom) -> Upload:
    """The rows as an upload."""
    name = f"chat-{wanted.kind}.jsonl"
    upload = Upload(scratch(), name, fields={"name": wanted.name})
    with (upload.directory / part(0)).open("wb") as file:
        for row in made:
            upload.size += file.write(orjson.dumps(row) + b"\n")
    upload.files = [{"name": name, "bytes": upload.size}]
    return upload


def more(who: Principal, dataset_id: str, made: list[Row]) -> DatasetVersion:
    for at in range(0, len(made), edits.MOST_ROWS):
        edits.add(who, dataset_id, "", made[at : at + edits.MOST_ROWS])
    with transaction() as db:
        return datasets.version(db, who.workspace_id, dataset_id)
