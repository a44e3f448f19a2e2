"""An entry of LLaMA-Factory's `dataset_info.json` as a mapping.

What LLaMA-Factory does without a word is said here: see the notes. Where it would lose data that
its user surely meant, the entry is read as it was meant.
"""

from collections.abc import Iterable
from typing import Any

from app.datasets.formats.columns import Mapping
from app.datasets.formats.parts import BadRow, Remark, Row, shown
from app.datasets.formats.sharegpt import TAGS
from app.errors import N_

COLUMNS = {  # its name of a column: what it is called by default
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "messages": "conversations",
    "history": None,
    "system": None,
    "tools": None,
    "chosen": None,
    "rejected": None,
    "kto_tag": None,
    "images": None,
    "videos": None,
    "audios": None,
}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
BOTH = {"system": "system", "tools": "tools"}
MEDIA = ("images", "videos", "audios")
SOURCES = {
    "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name"
}  # fmt: skip
KNOWN = SOURCES | {"formatting", "ranking", "columns", "tags", "file_sha1", "format"}
UNAPPLIED = {"subset", "split", "folder", "num_samples"}
OPENAI = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "tool",
}


def mapping_of(entry: Any, fields: Iterable[str] = ()) -> tuple[Mapping, list[Remark]]:
    """The mapping that an entry means. `fields` are those of the file's first row, if known.

    Raises BadRow, with a path in the entry, for what cannot be understood.
    """
    if not isinstance(entry, dict):
        raise BadRow("info.entry", "", N_("An entry of dataset_info.json must be an object."))
    notes = [
        Remark(
            "info.unapplied",
            "",
            N_("“%(name)s” in dataset_info.json is not applied: every row is read."),
            {"name": name},
        )
        for name in sorted(UNAPPLIED & entry.keys())
    ]
    for name in sorted(entry.keys() - KNOWN - UNAPPLIED):
        message = N_("“%(name)s” in dataset_info.json is not known, and was ignored.")
        notes.append(Remark("info.unknown", "", message, {"name": shown(str(name))}))
    formatting = formatting_of(entry, notes)
    columns = named(entry, "columns", set(COLUMNS))
    tags = named(entry, "tags", set(TAGS))
    if columns is not None:
        columns = {name: column for name, column in columns.items() if column}
        for name in MEDIA:
            if columns.pop(name, None):
                message = N_("“%(name)s” cannot be used for tuning a language model.")
                notes.append(Remark("info.media", "", message, {"name": name}))
    ranking = bool(entry.get("ranking"))
    if formatting == "alpaca":
        mapping = of_alpaca(columns, ranking, set(fields), notes)
    else:
        mapping = of_turns(columns, tags, ranking, formatting, notes)
    return mapping, notes


def formatting_of(entry: Row, notes: list[Remark]) -> str:
    found = entry.get("formatting")
    if found is None and "format" in entry:
        found = entry["format"]
        notes.append(
            Remark(
                "info.format",
                "",
                N_(
                    "dataset_info.json says “format”, which LLaMA-Factory ignores; it was read as "
                    "“formatting”."
                ),
            )
        )
    found = "alpaca" if found is None else found
    if found not in ("alpaca", "sharegpt", "openai"):
        raise BadRow(
            "info.formatting",
            "formatting",
            N_("“formatting” is alpaca, sharegpt or openai, and this is “%(found)s”."),
            found=shown(str(found)),
        )
    return str(found)


def named(entry: Row, what: str, known: set[str]) -> dict[str, str] | None:
    """The object `columns` or `tags`; None if it is absent: then the defaults hold."""
    found = entry.get(what)
    if not found:
        return None
    if not isinstance(found, dict):
        raise BadRow(f"info.{what}", what, N_("“%(name)s” must be an object."), name=what)
    for name, value in found.items():
        if name not in known or not isinstance(value, str | None):
            raise BadRow(
                f"info.{what}",
                f"{what}.{shown(str(name))}",
                N_("“%(name)s” is not known here, or its value is no text. Known are: %(known)s."),
                name=shown(str(name)),
                known=", ".join(sorted(known)),
            )
    return {name: value for name, value in found.items() if value is not None}


def of_alpaca(
    columns: dict[str, str] | None, ranking: bool, fields: set[str], notes: list[Remark]
) -> Mapping:
    if columns is None:  # the defaults are alpaca's own names
        return {"format": "preference" if ranking else "alpaca"}
    made = {ours: columns[theirs] for theirs, ours in (ALPACA | BOTH).items() if theirs in columns}
    if ranking or ("chosen" in columns and "rejected" in columns):
        answers = {name: columns.get(name, name) for name in ("chosen", "rejected")}
        made.pop("output", None)
        return {"format": "preference", "columns": made | answers}
    missing = COLUMNS["response"]
    if "response" not in columns and missing in fields - set(columns.values()):
        made["output"] = str(missing)
        notes.append(
            Remark(
                "info.response",
                "",
                N_(
                    "The columns in dataset_info.json name no response, so LLaMA-Factory would "
                    "drop every row; the field “%(name)s” was taken."
                ),
                {"name": missing},
            )
        )
    if "kto_tag" in columns:
        return {"format": "kto", "columns": made | {"kto_tag": columns["kto_tag"]}}
    if set(made) == {"instruction"}:  # LLaMA-Factory's way to name the text of pre-training
        return {"format": "text", "columns": {"text": made["instruction"]}}
    return {"format": "alpaca", "columns": made}


def of_turns(
    columns: dict[str, str] | None,
    tags: dict[str, str] | None,
    ranking: bool,
    formatting: str,
    notes: list[Remark],
) -> Mapping:
    if tags is None:
        tags = dict(OPENAI) if formatting == "openai" else {}
    elif left := sorted(set(TAGS) - set(tags)):
        message = N_(
            "The tags in dataset_info.json do not name %(names)s: LLaMA-Factory would know none. "
            "The usual ones were taken."
        )
        notes.append(Remark("info.tags", "", message, {"names": ", ".join(left)}))
    as_openai = tags.get("role_tag") == "role" and all(
        tags.get(name, said) == said for name, said in OPENAI.items()
    )
    form = "messages" if as_openai else "sharegpt"
    if columns is None:  # the file's names are the usual ones
        mapping: Mapping = {"format": "preference" if ranking else form}
        return mapping | ({"tags": tags} if tags and not as_openai else {})
    made = {"messages" if as_openai else "conversations": columns.get("messages", "conversations")}
    made |= {ours: columns[theirs] for theirs, ours in BOTH.items() if theirs in columns}
    if ranking or ("chosen" in columns and "rejected" in columns):
        form = "preference"
        made |= {name: columns.get(name, name) for name in ("chosen", "rejected")}
    elif "kto_tag" in columns:
        form = "kto"
        made["kto_tag"] = columns["kto_tag"]
    mapping = {"format": form, "columns": made}
    return mapping | ({"tags": tags} if tags and not as_openai else {})
