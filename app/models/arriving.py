"""The last step of an import: a directory of files becomes a model of the registry, or is refused.

Nothing in it is believed: weights are looked at header by header, code of the model's own is left
out where the platform's libraries need none of it, and refused where they would.
"""

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app import storage
from app.errors import N_, DomainError, Invalid
from app.models import presets, service, weights
from app.models.families import NATIVE
from app.models.tables import Model, ModelImport

README = 2**16  # bytes of it that are looked at
LICENCE = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([\w.+ -]{1,60}?)[\"']?[ \t]*$", re.MULTILINE)
PREFIX = "base_model.model."
LORA = re.compile(r"(.+)\.lora_A(?:\.default)?\.weight\Z")
LEFT_CODE = N_(
    "config.json named code of its own (auto_map), which was left out: it is not needed."
)


def artefact(import_id: str) -> str:
    return f"models/{import_id}"


def disarm(directory: Path) -> list[str]:
    """Take out what would have code of the model's own run. Msgids that say what was done.

    Raises Invalid for an architecture that would need that code.
    """
    notes = []
    for name in ("config.json", "tokenizer_config.json"):
        path = directory / name
        if not path.is_file():
            continue
        config = weights.read_json(path)
        if "auto_map" not in config:
            continue
        if name == "config.json":
            if weights.architecture(config) not in NATIVE:
                raise Invalid(
                    N_(
                        "config.json names code of its own (auto_map), and “%(architecture)s” does "
                        "not run without it. Models that bring code are refused."
                    ),
                    code="model.code",
                    architecture=weights.architecture(config),
                )
            notes.append(LEFT_CODE)
        del config["auto_map"]
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False))
    return notes


def inspected(directory: Path) -> dict[str, Any]:
    """The facts of `weights.inspect`. Raises Invalid with a code of its own."""
    try:
        return weights.inspect(directory)
    except DomainError as error:
        if error.code == Invalid.code:
            error.code = "model.unsound"
        raise


def licence_of(directory: Path) -> str:
    """As the head of README.md names it; "" if it does not."""
    try:
        text = (directory / "README.md").read_bytes()[:README].decode(errors="replace")
    except FileNotFoundError:
        return ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = {match[1].strip() for match in LICENCE.finditer(head)} - {"other"}
    return min(found) if found else ""


# -- adapters ------------------------------------------------------------------------------


def base_of(db: Session, one: ModelImport, directory: Path, facts: dict[str, Any]) -> Model | None:
    """The model that an imported adapter belongs on; None for a whole model.

    Raises Invalid if it is not here, or has other shapes than the adapter was made for.
    """
    if not facts["adapter"]:
        return None
    config = weights.read_json(directory / "adapter_config.json")
    named = str(config.get("base_model_name_or_path") or "")[:200]
    base = db.get(Model, one.base_id) if one.base_id else called(db, one.workspace_id, named)
    if base is None or base.deleted_at:
        raise Invalid(
            N_(
                "This is an adapter of “%(base)s”, which is not among the models here. Import that "
                "first, or say which model it belongs on, and try again."
            ),
            code="adapter.no_base",
            field="base",
            base=named or "?",
        )
    if one.shared and base.workspace_id:
        raise Invalid(
            N_(
                "An adapter for all workspaces needs a base that all have. “%(base)s” is yours alone."
            ),
            code="adapter.base_not_shared",
            field="base",
            base=base.name,
        )
    if misfit := differs(directory, base):
        raise Invalid(
            N_(
                "The adapter does not fit “%(base)s”: “%(tensor)s” has other widths, or is not there."
            ),
            code="adapter.misfit",
            field="base",
            base=base.name,
            tensor=misfit[:100],
        )
    return base


def called(db: Session, workspace_id: str, named: str) -> Model | None:
    """The newest whole model here that came from the repository `named`, or has its name."""
    if not named:
        return None
    whole = service.seen_from(workspace_id).where(
        Model.deleted_at.is_(None), Model.kind != "adapter"
    )
    for match in (
        Model.lineage["source"]["repository"].astext == named,
        Model.name == named,
        Model.name == named.rstrip("/").rpartition("/")[2],
    ):
        if found := db.scalar(whole.where(match).order_by(Model.created_at.desc()).limit(1)):
            return found
    return None


def differs(directory: Path, base: Model) -> str:
    """The first layer that an adapter would change and the base does not have so; "" if it fits."""
    if storage.local_root() is None:  # all of the base would have to be fetched
        return ""
    try:
        files = sorted(storage.fetch(base.artefact).glob("*.safetensors"))
    except FileNotFoundError:
        return ""
    theirs: dict[str, list[int]] = {}
    for path in files:
        theirs |= {name: entry.shape for name, entry in weights.tensors(path).items()}
    for path in sorted(directory.glob("*.safetensors")):
        for name, entry in weights.tensors(path).items():
            if not (found := LORA.match(name.removeprefix(PREFIX))):
                continue
            shape = theirs.get(f"{found[1]}.weight")
            if shape is None or len(shape) != 2 or entry.shape[1:] != shape[1:]:
                return found[1]
    return ""


# -- the registry --------------------------------------------------------------------------


def register(db: Session, one: ModelImport, directory: Path, facts: dict[str, Any]) -> Model:
    """The model, with where it came from."""
    base = base_of(db, one, directory, facts)
    preset = presets.find(one.source.get("preset", ""))
    cursor = one.cursor
    source = {
        key: value
        for key, value in one.source.items()
        if key in ("from", "repository", "revision", "path", "preset") and value
    }
    source |= {
        "files": {file["name"]: file.get("sha256", "") for file in cursor.get("files", [])},
        "left_out": cursor.get("left_out", []),
        "notes": cursor.get("notes", []),
    }
    if "commit" in cursor:
        source["commit"] = cursor["commit"]
    lineage: dict[str, Any] = {"source": source}
    if base:
        lineage["base"] = {"id": base.id, "name": base.name}
    model = service.register(
        db,
        workspace_id=None if one.shared else one.workspace_id,
        name=one.name,
        kind="adapter" if base else "base",
        artefact=artefact(one.id),
        base_id=base.id if base else None,
        parent_id=base.id if base else None,
        job_id=None,
        created_by=one.created_by,
        lineage=lineage,
        facts=facts,
    )
    model.licence = licence_of(directory) or (preset.licence if preset else "") or model.licence
    if preset and not base:
        model.family = preset.family
    db.flush()
    return model
