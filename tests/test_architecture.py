"""House rules that a program can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 400  # lines; what grows past it splits by noun or verb
GENERATED = {"migrations/versions/0001_initial.py"}


def own_files(*suffixes: str) -> list[Path]:
    """Tracked files, and new ones git does not ignore, less what others wrote or a tool made."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [
        ROOT / name
        for name in listed
        if name.endswith(suffixes)
        and not name.startswith("static/vendor/")
        and name not in GENERATED
        and (ROOT / name).is_file()
    ]


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in own_files(".py", ".js", ".html")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def constants() -> set[str]:
    """Every string that stands alone in the product's code."""
    return {
        node.value
        for path in own_files(".py")
        if path.is_relative_to(ROOT / "app") or path.is_relative_to(ROOT / "workers")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_message_names_a_task() -> None:
    """A nudge to a task nobody registered would be lost for ever, sweep or not."""
    from workers.celery import celery

    celery.loader.import_default_modules()
    tasks = {name for name in celery.tasks if name.startswith("workers.")}
    modules = {f"workers.{path.stem}" for path in (ROOT / "workers").iterdir()}
    named = {text for text in constants() if re.fullmatch(r"workers\.[a-z_]+", text)}
    assert named - modules <= tasks
    assert tasks <= named  # and a task that nobody sends is dead code


def test_beat_only_nudges() -> None:
    from workers.celery import celery

    assert {entry["task"] for entry in celery.conf.beat_schedule.values()} == {"workers.sweep"}


@pytest.mark.parametrize("module", ["app.up", "app.jobs.spec", "app.cli.main"])
def test_what_must_be_light_to_import(module: str) -> None:
    """The supervisor stays small for weeks; the stages and the command start often."""
    heavy = {"sqlalchemy", "fastapi", "celery", "starlette", "torch"}
    program = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []


def test_package_markers_are_empty() -> None:
    """Importing `app.jobs.spec` must not cost what else is in `app.jobs`. Formats have a face."""
    faces = ("tests", "formats")
    found = [p for p in own_files("__init__.py") if p.parts[-2] not in faces and p.read_text()]
    assert found == []
