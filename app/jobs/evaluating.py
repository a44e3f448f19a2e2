"""What a job asks beforehand of an evaluation at its end. It is carried out by `app.evaluations`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.errors import N_, DomainError, Invalid

SCORERS = (  # those that need no settings; the others are for an evaluation of one's own
    "accuracy", "f1", "exact", "contains", "numeric", "json",
    "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "perplexity",
)  # fmt: skip
ScorerKind = Literal[
    "accuracy", "f1", "exact", "contains", "numeric", "json",
    "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "perplexity",
]  # fmt: skip
KINDS = ("sft", "preference", "kto")  # of rows that ask something
MOST_CHECKPOINTS = 5
MOST_ROWS = 20_000
SERVED = r"^[a-z0-9][a-z0-9._-]*$"
Step = Annotated[int, Field(ge=1, lt=2**31)]
Needs = Literal["better", "not_worse"]


class Gate(BaseModel):
    """Let the result serve as `name`, a name at /v1, only if it is better than what serves there
    now; `not_worse`: also where no difference is certain. Where nothing serves by this name, the
    result does.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=60, pattern=SERVED)
    needs: Needs = "better"


class JobEvaluation(BaseModel):
    """An evaluation when the job has succeeded: what it started from is the baseline, the result
    and `checkpoints` are compared with it on the rows of `dataset`. The first scorer decides.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    dataset: str = Field(
        min_length=1, max_length=200, description="A published dataset's id, or a version's."
    )
    scorers: list[ScorerKind] = Field(["accuracy", "f1"], min_length=1, max_length=len(SCORERS))
    checkpoints: list[Step] = Field(
        [],
        max_length=MOST_CHECKPOINTS,
        description="Steps whose checkpoints are evaluated too; each becomes a model.",
    )
    limit: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="So many rows, drawn at random."
    )
    max_tokens: int = Field(64, ge=1, le=32_768, description="Of an answer.")
    gate: Gate | None = Field(None, description="Serve the result, but only if it is better.")

    @field_validator("scorers", "checkpoints")
    @classmethod
    def once(cls, several: list[Any]) -> list[Any]:
        return list(dict.fromkeys(several))


def check(db: Session, workspace_id: str, asked: JobEvaluation, stage: str) -> DatasetVersion:
    """The version whose rows are asked. Raises NotFound, Conflict and Invalid, with the field."""
    if stage == "reward":
        raise Invalid(
            N_("A reward model writes no answers, so there is nothing to evaluate."),
            code="reward_model",
            field="evaluation.dataset",
        )
    try:
        version = datasets.published(db, workspace_id, asked.dataset)
    except DomainError as error:
        error.field = "evaluation.dataset"
        raise
    if version.kind not in KINDS:
        raise Invalid(
            N_("The rows of “%(name)s” ask nothing: an evaluation needs prompts with answers."),
            code="no_prompts",
            field="evaluation.dataset",
            name=datasets.version(db, workspace_id, version.dataset_id, version.id).dataset.name,
        )
    if min(version.rows, asked.limit or version.rows) > MOST_ROWS:
        raise Invalid(
            N_("At most %(most)s rows can be evaluated. Choose how many are to be drawn."),
            code="too_many_rows",
            field="evaluation.limit",
            most=MOST_ROWS,
        )
    return version


def kept(db: Session, workspace_id: str, asked: JobEvaluation, stage: str) -> dict[str, Any]:
    """As the job keeps it: the very version is named. Raises as `check`."""
    version = check(db, workspace_id, asked, stage)
    return asked.model_dump() | {"dataset": version.id}


# -- the form ----------------------------------------------------------------------------


def several(value: Any) -> Any:
    """Boxes of one name: a form says one that is ticked by itself."""
    return [value] if isinstance(value, str) else value


def steps(value: Any) -> Any:
    """`40, 80`, as it is typed."""
    if not isinstance(value, str):
        return value
    return [one for one in value.replace("，", ",").replace(",", " ").split() if one]


class EvaluationFields(BaseModel):
    """The fields of the form; `evaluate` names the dataset, and without it there is no evaluation."""

    evaluate: str = Field("", max_length=200)
    evaluate_scorers: Annotated[list[ScorerKind], BeforeValidator(several)] = ["accuracy", "f1"]
    evaluate_first: ScorerKind | None = None
    evaluate_checkpoints: Annotated[list[Step], BeforeValidator(steps)] = Field(
        [], max_length=MOST_CHECKPOINTS
    )
    evaluate_limit: int | None = Field(None, ge=1, le=MOST_ROWS)
    evaluate_tokens: int = Field(64, ge=1, le=32_768)
    gate: str = Field("", max_length=60, pattern=rf"^$|{SERVED}")
    gate_needs: Needs = "better"

    @field_validator("evaluate_checkpoints", "gate")
    @classmethod
    def rows_are_chosen(cls, value: Any, info: ValidationInfo) -> Any:
        if value and not info.data.get("evaluate"):
            raise ValueError(N_("Choose above on which rows it is evaluated."))
        return value

    def evaluation(self) -> JobEvaluation | None:
        if not self.evaluate:
            return None
        first = [self.evaluate_first] if self.evaluate_first else []
        return JobEvaluation(
            dataset=self.evaluate,
            scorers=[*first, *self.evaluate_scorers],
            checkpoints=self.evaluate_checkpoints,
            limit=self.evaluate_limit,
            max_tokens=self.evaluate_tokens,
            gate=Gate(name=self.gate, needs=self.gate_needs) if self.gate else None,
        )


def form_values(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a job asked for, as values of the form's fields."""
    if not kept:
        return {}
    gate = kept.get("gate") or {}
    return {
        "evaluate": kept["dataset"],
        "evaluate_scorers": kept["scorers"],
        "evaluate_first": kept["scorers"][0],
        "evaluate_checkpoints": ", ".join(str(step) for step in kept["checkpoints"]),
        "evaluate_limit": kept["limit"] or "",
        "evaluate_tokens": kept["max_tokens"],
        "gate": gate.get("name", ""),
        "gate_needs": gate.get("needs", "better"),
    }


FIELDS = {
    "dataset": "evaluate",
    "scorers": "evaluate_scorers",
    "checkpoints": "evaluate_checkpoints",
    "limit": "evaluate_limit",
    "max_tokens": "evaluate_tokens",
    "gate": "gate",
}


def field_of(path: str) -> str:
    """The form's field for `evaluation.…` of the API's body; others as they are."""
    parts = path.split(".")
    return FIELDS.get(parts[1], "evaluate") if parts[0] == "evaluation" and parts[1:] else path
