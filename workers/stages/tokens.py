"""Prepared data: the rows of a run as tokens, kept on the node so that the next run starts at once.

An entry is one file, named by a hash of everything that decides what is in it: the rows, the
tokenizer and template, the settings that cut and mark them, and the code that does. It is
written beside its place and renamed, and read only where its own hash holds, so half an entry
is none. The least recently used go first once they take more than `MOST_BYTES`.
"""

import hashlib
import json
import os
import re
import shutil
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import zstandard
from orjson import JSONDecodeError

from app.errors import N_
from app.jobs import methods
from app.jobs.spec import RunSpec
from app.models import chat_template, marking, vocabulary
from app.models.vocabulary import Vocabulary
from workers.stages import mixing, prepare
from workers.stages.mixing import Data
from workers.stages.prepare import Examples, Prepare
from workers.stages.run import Run, StageError, disk_is_full, replace, say

MOST_BYTES = 8 * 2**30
MOST_OF_DISK = 0.1  # of what is free: an entry that takes more is not kept
NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{64}\Z")
CODE = (chat_template, marking, mixing, prepare, vocabulary)  # what decides how rows are read
ARRAYS = {"ids": "i", "starts": "q", "lengths": "i", "rows": "I", "good": "b"}


@dataclass
class Prepared:
    train: Examples
    validation: Examples | None
    data: dict[str, int]  # what became of the rows: for result.json
    checks: dict[str, int] | None  # of the validation data
    mix: list[dict[str, Any]]
    said: list[list[Any]]  # events and lines of the log; said again when an entry is used
    path: Path | None = None  # of the entry, where there is one


def prepared(
    run: Run, spec: RunSpec, config: dict[str, Any], words: Vocabulary, began: float
) -> Prepared:
    """The tokens of the run: those of an earlier run that had the same, or new ones.

    `began` is what templates take for the present. Raises StageError.
    """
    try:
        name = key(spec, config, words, began)
    except FileNotFoundError as error:
        raise data_missing(error) from error
    place = Path(spec.cache or run.directory / "tokens") / f"{name}.tokens"
    if found := load(place):
        say("The data was prepared before, with the same tokenizer and settings")
        for kind, message, params in found.said:
            if kind:
                run.event(kind, message, **params)
            else:
                say(message)
        return found
    try:
        made = read(run, spec, config, words, began)
    except FileNotFoundError as error:
        raise data_missing(error) from error
    except (JSONDecodeError, zstandard.ZstdError) as error:
        raise StageError(
            "bad_data",
            N_("The data of this run is damaged and cannot be read: %(reason)s"),
            reason=str(error)[:500],
        ) from error
    if spec.cache:
        made.path = keep(made, place)
    return made


def tell(run: Run, made: Prepared) -> None:
    """The first process to the others: where the tokens are."""
    if run.ranks > 1:
        place = made.path or keep(made, run.directory / "tokens" / "run.tokens", always=True)
        replace(run.directory / f"prepared-{os.getppid()}.json", {"path": str(place)})


def wait(run: Run) -> Prepared:
    """The other processes: what the first has prepared. They share a parent, which ends them if
    the first fails.
    """
    told = run.directory / f"prepared-{os.getppid()}.json"
    while not told.exists():
        time.sleep(0.05)
    found = load(Path(json.loads(told.read_text())["path"]))
    if found is None:
        raise StageError(
            "data_missing", N_("The data is not on this node: %(file)s"), file="tokens"
        )
    return found


def longest(spec: RunSpec, config: dict[str, Any]) -> int:
    """Tokens at which rows are cut: as asked, and never more than the model reads."""
    wanted = spec.hyperparameters.max_length
    known = (config.get("text_config") or config).get("max_position_embeddings")
    return min(wanted, int(known or wanted))


def read(
    run: Run, spec: RunSpec, config: dict[str, Any], words: Vocabulary, began: float
) -> Prepared:
    """Tokenise the training and the validation data, and say what became of their rows."""
    run.recorded = []
    most = longest(spec, config)
    if most < spec.hyperparameters.max_length:
        run.event(
            "warning",
            N_("The model reads at most %(known)s tokens, so rows are cut there."),
            known=most,
        )

    def work() -> Prepare:
        return Prepare(
            run=run,
            tokenizer=words.tokenizer,
            template=words.template,
            special=words.special,
            stops=set(words.stops),
            around=words.around,
            max_length=most,
            kind=methods.KINDS[spec.stage],
            now=datetime.fromtimestamp(began),  # noqa: DTZ006 - as the engine's own clock
            train_on=spec.hyperparameters.train_on,
        )

    source = Data(run, spec)
    mix = source.report_mix()
    training = work()
    training.read(source.training())
    data = training.report("train")
    source.spread(training.examples)
    made = Prepared(training.examples, None, data, None, mix, run.recorded)
    if source.validates:
        validating = work()
        validating.read(source.validating())
        made.checks = source.report_leaks() | validating.report("validation")
        made.validation = validating.examples
    run.recorded = None
    return made


def data_missing(error: FileNotFoundError) -> StageError:
    return StageError(
        "data_missing", N_("The data is not on this node: %(file)s"), file=error.filename
    )


# -- names -------------------------------------------------------------------------------


def key(spec: RunSpec, config: dict[str, Any], words: Vocabulary, began: float) -> str:
    """Names what `read` would make. Raises FileNotFoundError when rows are missing."""
    template = words.template
    sources = f"{template.source} {template.tool_source}" if template else ""
    parts = [part.model_dump() | {"rows": list(map(content, part.rows))} for part in spec.mix]
    facts = {
        "code": [digest(Path(str(module.__file__))) for module in CODE],
        "words": [digest(Path(spec.base) / name) for name in vocabulary.FILES],
        "template": sources,
        "now": began if "strftime_now" in sources else None,
        "stage": spec.stage,
        "train_on": spec.hyperparameters.train_on,
        "max_length": [spec.hyperparameters.max_length, longest(spec, config)],
        "train": [content(rows) for rows in spec.train],
        "mix": sorted(parts, key=lambda part: str(part["dataset"])),
        "main": spec.mix[0].dataset if spec.mix else None,
        "seed": spec.hyperparameters.seed if spec.mix else None,
        "validation": [content(rows) for rows in spec.validation],
        "split": spec.split.model_dump() if spec.split else None,
        "drop_leaks": spec.drop_leaks,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def content(segment: str) -> str:
    """Names the rows of a segment: the store has named it by them already."""
    path = Path(segment)
    if path.parent.name == "segments" and NAMED_BY_CONTENT.match(path.name) and path.is_dir():
        return path.name
    files = sorted(one for one in path.iterdir() if one.is_file())
    return " ".join(f"{one.name} {digest(one)}" for one in files)


def digest(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except FileNotFoundError:
        return ""


# -- entries -----------------------------------------------------------------------------


def pack(examples: Examples | None) -> tuple[dict[str, Any] | None, list[bytes | bytearray]]:
    if examples is None:
        return None, []
    arrays = [array(kind, getattr(examples, name)).tobytes() for name, kind in ARRAYS.items()]
    head = {"stops": sorted(examples.stops), "sizes": [*map(len, arrays), len(examples.trained)]}
    return head, [*arrays, examples.trained]


def unpack(head: dict[str, Any] | None, body: memoryview) -> tuple[Examples | None, memoryview]:
    """The examples, and what of the body follows them."""
    if head is None:
        return None, body
    found = Examples(stops=set(head["stops"]))
    for (name, kind), size in zip(ARRAYS.items(), head["sizes"], strict=False):
        values = array(kind)
        values.frombytes(body[:size])
        setattr(found, name, list(values) if name == "lengths" else values)
        body = body[size:]
    size = head["sizes"][-1]
    found.trained = bytearray(body[:size])
    return found, body[size:]


def keep(made: Prepared, place: Path, *, always: bool = False) -> Path | None:
    """Write the entry; None where there is no room. It is no loss: the next run reads again."""
    train, body = pack(made.train)
    validation, more = pack(made.validation)
    body += more
    size = sum(map(len, body))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        room = MOST_OF_DISK * shutil.disk_usage(place.parent).free
        if size > min(room, MOST_BYTES / 2) and not always:
            return None
        hashed = hashlib.blake2b()
        for part in body:
            hashed.update(part)
        head = {
            "hash": hashed.hexdigest(),
            "train": train,
            "validation": validation,
            "data": made.data,
            "checks": made.checks,
            "mix": made.mix,
            "said": made.said,
        }
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        with partial.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            for part in body:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(place)
        clear(place.parent)
    except OSError as error:
        with suppress(OSError):
            place.with_name(f".{place.name}.{os.getpid()}").unlink(missing_ok=True)
        if always or not disk_is_full(error):
            raise
        say("No room to keep the prepared data for the next run")
        return None
    return place


def load(place: Path) -> Prepared | None:
    """The entry, if it is there and whole."""
    try:
        with place.open("rb") as file:
            head = json.loads(file.readline())
            body = memoryview(file.read())
        if hashlib.blake2b(body).hexdigest() != head["hash"]:
            raise ValueError("torn")  # noqa: TRY301 - as what json and the arrays raise
        train, body = unpack(head["train"], body)
        validation, body = unpack(head["validation"], body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        place.unlink(missing_ok=True)
        return None
    assert train
    with suppress(OSError):
        os.utime(place)
    return Prepared(
        train, validation, head["data"], head["checks"], head["mix"], head["said"], place
    )


def clear(directory: Path) -> None:
    """Keep the bound: what was not used for longest goes, and what a killed writer left."""
    for partial in directory.glob(".*.tokens.*"):
        with suppress(OSError):
            if partial.stat().st_mtime < time.time() - 86_400:
                partial.unlink()
    entries = []
    for path in directory.glob("*.tokens"):
        with suppress(OSError):  # another run has just removed it
            entries.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
