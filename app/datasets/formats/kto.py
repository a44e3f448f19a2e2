"""A conversation whose last answer is wanted or not: `label` (TRL) or `kto_tag` (LLaMA-Factory)."""

from app.datasets.formats.alpaca import from_alpaca
from app.datasets.formats.completion import from_completion
from app.datasets.formats.messages import from_messages
from app.datasets.formats.parts import BadRow, Row, kind
from app.datasets.formats.sharegpt import Tags, from_sharegpt
from app.errors import N_

LABELS = ("label", "kto_tag")


def from_kto(row: Row, inner: str, tags: Tags | None = None) -> tuple[Row, set[str]]:
    """`inner` is the format that the row has but for its label."""
    given = [name for name in LABELS if row.get(name) is not None]
    if not given:
        raise BadRow(
            "label.missing", "label", N_("There is no label that says whether the answer is good.")
        )
    for name in given:
        if not isinstance(row[name], bool):
            raise BadRow(
                "label.type",
                name,
                N_("A label is true or false, and this is of the type %(found)s."),
                found=kind(row[name]),
            )
    if len({row[name] for name in given}) > 1:
        raise BadRow("label.both", "kto_tag", N_("“label” and “kto_tag” say different things."))
    rest = {name: value for name, value in row.items() if name not in LABELS}
    if inner == "sharegpt":
        read, extra = from_sharegpt(rest, tags)
    elif inner == "alpaca":
        read, extra = from_alpaca(rest)
    elif inner == "completion":
        read, extra = from_completion(rest, weigh=False)
    else:
        read, extra = from_messages(rest)
    kept: Row = {"messages": read["messages"], "label": row[given[0]]}
    if "tools" in read:
        kept["tools"] = read["tools"]
    return kept, extra
