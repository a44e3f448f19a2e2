"""Once every candidate has answered, judges are asked about the answers."""

from collections.abc import Iterator, Sequence
from itertools import islice

from starlette.concurrency import run_in_threadpool

from app.datasets.tables import DatasetVersion
from app.errors import N_, Conflict, DomainError
from app.evaluations import holding, prompts, reading
from app.evaluations.asking import HeldEvaluation
from app.evaluations.judging import keeping
from app.evaluations.judging.asking import EmbeddingAsking, JudgeAsking, Piece
from app.evaluations.judging.keeping import Judgement
from app.evaluations.schemas import Settings
from app.evaluations.scorers.schemas import Asked, Embedding, Judging, Pairwise
from app.evaluations.tables import Candidate, Evaluation

NO_REFERENCE = {
    "code": "no_reference",
    "message": N_("This row has no reference to compare with."),
    "params": {},
}
STEP = 50  # rows whose answers are read at a time
BEGINS = N_("%(name)s judges.")
COMPARES = N_("%(name)s gives embeddings.")


async def judge(hold: HeldEvaluation, version: DatasetVersion) -> None:
    """All that judges have not said yet. One that says nothing does not stop others. Raises Lost."""
    several = await run_in_threadpool(holding.candidates, hold.evaluation.id)
    for scorer in hold.scorers:
        if not isinstance(scorer, Asked) or hold.ended.is_set():
            continue
        key, name = scorer.key, scorer.model
        message = COMPARES if isinstance(scorer, Embedding) else BEGINS
        await run_in_threadpool(keeping.begin, hold.evaluation, key, message, name)
        try:
            for one in several[1:] if isinstance(scorer, Pairwise) else several:
                if not hold.ended.is_set():
                    await about(hold, scorer, several[0], one, version)
        except DomainError as error:
            await run_in_threadpool(keeping.refuse, hold.evaluation, key, error)


async def about(
    hold: HeldEvaluation,
    scorer: Asked,
    base: Candidate,
    one: Candidate,
    version: DatasetVersion,
) -> None:
    """What the judge says of one candidate. Raises Lost, and Conflict if its name leads nowhere."""
    said = await run_in_threadpool(keeping.said, one.id, scorer.key)
    todo = await run_in_threadpool(missing, scorer, base, one, said)
    if not todo:
        return
    found = pieces(hold.evaluation, hold.settings, version, scorer, base, one, todo)
    asking: JudgeAsking | EmbeddingAsking
    if isinstance(scorer, Judging):
        asking = JudgeAsking(hold, scorer, one, base.id, found, name=scorer.model, fresh=not said)
    else:
        asking = EmbeddingAsking(
            hold, scorer, one, base.id, found, name=scorer.model, fresh=not said
        )
    await asking.all()
    if told := asking.refusal:
        raise Conflict(told["message"], code=told["code"], **told["params"])


def missing(
    scorer: Asked, base: Candidate, one: Candidate, said: set[tuple[int, bool]]
) -> set[tuple[int, bool]]:
    """Rows, and for pairs the order, about which the judge was not asked yet."""
    there = keeping.answered(one.id)
    if not isinstance(scorer, Pairwise):
        return {(number, False) for number in there} - said
    there &= keeping.answered(base.id)
    return {(number, swapped) for number in there for swapped in (False, True)} - said


def pieces(
    evaluation: Evaluation,
    settings: Settings,
    version: DatasetVersion,
    scorer: Asked,
    base: Candidate,
    one: Candidate,
    todo: set[tuple[int, bool]],
) -> Iterator[Piece]:
    """Answers with their questions. What is known without asking is kept right away: two answers
    that are the same are a tie.
    """
    wanted = {number for number, _ in todo}
    rest = set(prompts.numbers(version.rows, settings.limit, settings.seed)) - wanted
    questions = reading.questions(version, settings, rest)
    pairs, embeds = isinstance(scorer, Pairwise), isinstance(scorer, Embedding)
    while some := list(islice(questions, STEP)):
        numbers = [number for number, _ in some]
        texts = keeping.texts([base.id, one.id], numbers)
        known: list[Judgement] = []
        for number, question in some:
            ours = texts[one.id, number]
            theirs = texts[base.id, number] if pairs else ""
            for swapped in (one_of for one_of in (False, True) if (number, one_of) in todo):
                if pairs and same(ours, theirs):
                    known.append(Judgement(number, swapped, winner="tie"))
                elif embeds and not question.reference.strip():
                    known.append(Judgement(number, error=NO_REFERENCE))
                elif embeds and not prompts.thoughtless(ours).strip():
                    known.append(Judgement(number, scores={"cosine": 0.0}))
                else:
                    yield Piece(number, question, ours, theirs, swapped)
        if known:
            keeping.store(evaluation, scorer, one.id, base.id, known)


def same(ours: str, theirs: str) -> bool:
    return prompts.thoughtless(ours).strip() == prompts.thoughtless(theirs).strip()


def orders(scorers: Sequence[Asked]) -> tuple[int, int]:
    """How often judges are asked about a row of each candidate, and of each but the baseline."""
    pairs = sum(isinstance(one, Pairwise) for one in scorers)
    return len(scorers) - pairs, 2 * pairs
