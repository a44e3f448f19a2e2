"""Which scorers an evaluation has, and how each is set. `key` names it in scores and verdicts."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

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


Scorer = Annotated[
    Exact | Contains | Regex | Numeric | JsonMatch | Label | Overlap, Field(discriminator="kind")
]
KINDS = (
    "exact", "contains", "regex", "numeric", "json", "accuracy", "f1",
    "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf",
)  # fmt: skip
