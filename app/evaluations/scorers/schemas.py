"""Which scorers an evaluation has, and how each is set. `key` names it in scores and verdicts."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.errors import N_, Invalid
from app.evaluations.judging import prompts
from app.evaluations.scorers import rules

KEY = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"
Phrase = Annotated[str, Field(min_length=1, max_length=1000)]


class Options(BaseModel):
    """What all scorers have. `key` is made of the kind where it is left out."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    key: str = Field("", max_length=40, description="Its name in the results; else the kind.")

    @model_validator(mode="after")
    def named(self) -> Self:
        self.key = self.key or str(getattr(self, "kind", ""))
        return self


class Exact(Options):
    """The answer is the reference."""

    kind: Literal["exact"]
    case: bool = Field(False, description="Capital and small letters differ.")
    punctuation: bool = Field(False, description="Marks count.")


class Contains(Options):
    """The reference stands in the answer, or `texts` do."""

    kind: Literal["contains"]
    texts: list[Phrase] = Field(default_factory=list, max_length=50)
    every: bool = Field(False, description="All of the texts, not just one of them.")
    case: bool = False


class Regex(Options):
    """A regular expression (RE2) is found in the answer."""

    kind: Literal["regex"]
    pattern: str = Field(min_length=1, max_length=1000)
    case: bool = True
    compare: bool = Field(False, description="What the first group catches is the reference.")

    @model_validator(mode="after")
    def compiled(self) -> Self:
        rules.pattern(self.pattern, self.case)
        return self


class Numeric(Options):
    """The number of the answer is that of the reference."""

    kind: Literal["numeric"]
    absolute: float = Field(1e-6, ge=0, description="How far apart they may be.")
    relative: float = Field(0.0, ge=0, le=1, description="And in proportion to the larger.")
    which: Literal["last", "first"] = Field("last", description="Of the numbers in the answer.")


class JsonMatch(Options):
    """The answer is JSON as `schema` says; the share of fields that are as in the reference."""

    kind: Literal["json"]
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    fields: list[Phrase] = Field(
        default_factory=list, max_length=200, description="Dotted; left out: all of the reference."
    )

    @property
    def schema_text(self) -> str:
        return orjson.dumps(self.json_schema).decode() if self.json_schema else ""

    @model_validator(mode="after")
    def valid(self) -> Self:
        if self.json_schema:
            rules.validator(self.schema_text)
        return self


class Label(Options):
    """The answer names the right one of a few labels: accuracy, or macro F1, and the confusion."""

    kind: Literal["accuracy", "f1"]
    labels: list[Phrase] = Field(
        default_factory=list, max_length=50, description="Left out: what the references say."
    )
    last: bool = Field(False, description="The label that is named last, where several are.")


class Overlap(Options):
    """How much of the reference is in the answer; Chinese is cut into words by jieba."""

    kind: Literal["token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf"]


class Asked(Options):
    """What another model says of the answers, once they are all there."""

    model: str = Field(
        min_length=1,
        max_length=200,
        description="The name at /v1 of the deployment or alias that is asked.",
    )


class Judging(Asked):
    """What both ways of judging have."""

    prompt: str = Field("", max_length=20_000, description="With places; left out: a preset.")
    dimensions: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=lambda: list(prompts.DIMENSIONS),
        max_length=10,
        description="Of the five presets by name, or your own as “name: what is looked at”. None: "
        "the answer as a whole.",
    )
    language: Literal["zh", "en"] = Field("en", description="Of the preset and the dimensions.")
    max_tokens: int = Field(1024, ge=16, le=32_768, description="Of the judge's reply.")

    @field_validator("dimensions")
    @classmethod
    def apart(cls, several: list[str]) -> list[str]:
        keys = [one.key for one in prompts.dimensions(several, "en")]
        if len(set(keys)) < len(keys) or not all(keys):
            raise Invalid(
                N_("Each dimension needs a name of its own."), code="same_name", field="dimensions"
            )
        return several

    @model_validator(mode="after")
    def placed(self) -> Self:
        kind = str(getattr(self, "kind", ""))
        self.prompt = self.prompt or prompts.PRESETS[kind][self.language]
        prompts.check(kind, self.prompt)
        return self


class Judge(Judging):
    """A model gives each answer marks, with its reason: the mean over the dimensions."""

    kind: Literal["judge"]
    scale: Literal[5, 10] = Field(5, description="The best mark; 1 is the worst.")


class Pairwise(Judging):
    """A model says which of two answers is better, the baseline's or the other's: asked twice,
    with the order swapped, and where the two differ it is a tie. The figure is the share won.
    """

    kind: Literal["pairwise"]


class Embedding(Asked):
    """How near the answer is to the reference in meaning: the cosine of their embeddings."""

    kind: Literal["embedding"]


class Perplexity(Options):
    """How little the reference surprises the model: exp of the mean negative log-likelihood of its
    tokens, as training reads them; of a row without one, of all its text. Lower is better.
    """

    kind: Literal["perplexity"]


Scorer = Annotated[
    Exact
    | Contains
    | Regex
    | Numeric
    | JsonMatch
    | Label
    | Overlap
    | Judge
    | Pairwise
    | Embedding
    | Perplexity,
    Field(discriminator="kind"),
]


def look_at_answers(scorers: Sequence[Options]) -> bool:
    """Does any of them? Perplexity is asked of the rows alone."""
    return not all(isinstance(one, Perplexity) for one in scorers)


KINDS = (
    "exact", "contains", "regex", "numeric", "json", "accuracy", "f1",
    "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "embedding", "perplexity", "judge",
    "pairwise",
)  # fmt: skip
