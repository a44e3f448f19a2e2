"""Benchmarks whose data lies in a directory, in the files in which it is given out, and as the tasks
of lm-eval want it.

Nothing is downloaded: a benchmark is ready when its files are there. The tasks, with their prompts,
versions and measures, are lm-eval's own (EleutherAI, github.com/EleutherAI/lm-evaluation-harness).

    ceval/{dev,val}/<subject>_{dev,val}.csv     id,question,A,B,C,D,answer[,explanation]
    cmmlu/{dev,test}/<subject>.csv              ,Question,A,B,C,D,Answer
    mmlu/{dev,test}/<subject>_{dev,test}.csv    question,A,B,C,D,answer without a heading
    gsm8k/{train,test}.jsonl                    {question, answer}
    <name>/                                     a copy of the dataset's repository: see COPIES
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LETTERS = ("A", "B", "C", "D")
MOST_BYTES = 64 * 2**20  # of one file
# as lm-eval names the task: the dataset that is copied whole, with its README.md, below that name,
# and the folder in which lm-eval has the task
COPIES = {
    "arc_challenge": ("allenai/ai2_arc", "arc"),
    "arc_easy": ("allenai/ai2_arc", "arc"),
    "hellaswag": ("Rowan/hellaswag", "hellaswag"),
    "openbookqa": ("allenai/openbookqa", "openbookqa"),
    "piqa": ("baber/piqa", "piqa"),
    "truthfulqa_mc2": ("truthfulqa/truthful_qa", "truthfulqa"),
    "winogrande": ("allenai/winogrande", "winogrande"),
}


class Unreadable(Exception):
    """A file that is not what its place says. The text names it, and the line."""


@dataclass(frozen=True)
class Layout:
    """A benchmark: `name` as here, `prefix` as its tasks begin in lm-eval."""

    name: str
    title: str
    where: str  # below the directory
    prefix: str
    asked: str  # the split whose questions are asked
    shown: str  # the one from which examples are taken
    pattern: str  # of a subject's file, with {split} and {subject}
    read: Callable[[Path], Iterator[Row]]


@dataclass
class Subject:
    """One task of lm-eval: its files, by split."""

    task: str
    files: dict[str, Path] = field(default_factory=dict)
    copy: Path | None = None  # of a dataset's repository, in place of files


def table(path: Path, names: list[str] | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of a CSV file, with their lines. Raises Unreadable."""
    if path.stat().st_size > MOST_BYTES:
        raise Unreadable(f"{path.name}: larger than {MOST_BYTES // 2**20} MiB")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, fieldnames=names, strict=True)
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable(f"{path.name}: {error}") from None


def choices(path: Path, names: list[str] | None, question: str, answer: str) -> Iterator[Row]:
    """Rows with four choices and the letter of the right one. Raises Unreadable."""
    for line, row in table(path, names):
        if any(not isinstance(row.get(name), str) for name in (question, *LETTERS)):
            raise Unreadable(f"{path.name}, line {line}: a question and four answers are needed")
        if row.get(answer) not in LETTERS:
            raise Unreadable(f"{path.name}, line {line}: the answer is not one of A, B, C and D")
        yield row


def ceval(path: Path) -> Iterator[Row]:
    return choices(path, None, "question", "answer")


def cmmlu(path: Path) -> Iterator[Row]:
    return choices(path, None, "Question", "Answer")


def mmlu(path: Path) -> Iterator[Row]:
    for row in choices(path, ["question", *LETTERS, "answer"], "question", "answer"):
        yield {
            "question": row["question"],
            "choices": [row[letter] for letter in LETTERS],
            "answer": LETTERS.index(row["answer"]),
        }


def gsm8k(path: Path) -> Iterator[Row]:
    if path.stat().st_size > MOST_BYTES:
        raise Unreadable(f"{path.name}: larger than {MOST_BYTES // 2**20} MiB")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            yield {"question": str(row["question"]), "answer": str(row["answer"])}
        except (ValueError, KeyError, TypeError):
            raise Unreadable(
                f"{path.name}, line {number}: no JSON with question and answer"
            ) from None


LAYOUTS = (
    Layout(
        *("ceval", "C-Eval", "ceval/{dev,val}/<subject>_{dev,val}.csv", "ceval-valid_"),
        *("val", "dev", "{split}/{subject}_{split}.csv", ceval),
    ),
    Layout(
        *("cmmlu", "CMMLU", "cmmlu/{dev,test}/<subject>.csv", "cmmlu_"),
        *("test", "dev", "{split}/{subject}.csv", cmmlu),
    ),
    Layout(
        *("mmlu", "MMLU", "mmlu/{dev,test}/<subject>_{dev,test}.csv", "mmlu_"),
        *("test", "dev", "{split}/{subject}_{split}.csv", mmlu),
    ),
    Layout(
        *("gsm8k", "GSM8K", "gsm8k/{train,test}.jsonl", "gsm8k"),
        *("test", "train", "{split}.jsonl", gsm8k),
    ),
)


def subjects(root: Path, layout: Layout) -> list[Subject]:
    """Those of which the questions are there, by name; examples where there are any."""
    home = root / layout.name
    ending = layout.pattern.format(split=layout.asked, subject="*")
    found = []
    for path in sorted(home.glob(ending)):
        name = path.stem.removesuffix(f"_{layout.asked}") if "{subject}" in layout.pattern else ""
        files = {layout.asked: path}
        shown = home / layout.pattern.format(split=layout.shown, subject=name)
        if shown.is_file():
            files[layout.shown] = shown
        found.append(Subject(layout.prefix + name, files))
    return found


def tasks(root: Path, name: str) -> list[Subject]:
    """What the benchmark `name` consists of; nothing if its files are not there."""
    if name in COPIES:
        home = root / name
        return [Subject(name, copy=home)] if is_copy(home) else []
    layout = next((one for one in LAYOUTS if one.name == name), None)
    return subjects(root, layout) if layout else []


def is_copy(home: Path) -> bool:
    return home.is_dir() and any(
        path.suffix in (".parquet", ".jsonl") for path in home.rglob("*") if path.is_file()
    )


def rows(name: str, subject: Subject) -> dict[str, list[Row]]:
    """Split → rows, in the shape that lm-eval's task reads. Raises Unreadable."""
    layout = next(one for one in LAYOUTS if one.name == name)
    return {split: list(layout.read(path)) for split, path in subject.files.items()}


def ready(root: Path) -> list[dict[str, Any]]:
    """Of every benchmark known here: {name, title, where, subjects, questions (None: not counted),
    problem}; ready if it has subjects and no problem.
    """
    found = []
    for layout in LAYOUTS:
        there, questions, problem = subjects(root, layout), 0, ""
        try:
            for subject in there:
                questions += len(rows(layout.name, subject)[layout.asked])
        except (Unreadable, OSError) as error:
            problem = str(error)[:300]
        found.append(known(layout.name, layout.title, layout.where, len(there), questions, problem))
    for name, (dataset, _) in COPIES.items():
        there = tasks(root, name)
        where = f"{name}/ ({dataset})"
        found.append(known(name, name.replace("_", " "), where, len(there), None, ""))
    return found


def folder(name: str) -> str:
    """Where lm-eval has the tasks of a benchmark, below its own."""
    if name in COPIES:
        return COPIES[name][1]
    return "mmlu/default" if name == "mmlu" else name


def known(
    name: str, title: str, where: str, subjects: int, questions: int | None, problem: str
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "where": where,
        "subjects": subjects,
        "questions": questions,
        "problem": problem,
    }
