"""The catalogue has every sentence of the program, in Chinese, and nothing else."""

import ast
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po

from app.config import ROOT

CATALOGUE = ROOT / "app/locale/zh_CN/LC_MESSAGES/danlu.po"
PLACE = re.compile(r"%\(\w+\)[sd]|%%")
RAISED = {
    "Invalid", "Unauthenticated", "Forbidden", "NotFound", "Conflict", "TooLarge", "TooMany",
    "Unavailable", "StageError", "BadRow",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """What `make messages` would find now."""
    pot = tmp_path_factory.mktemp("messages") / "danlu.pot"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        CommandLineInterface().run(
            f"pybabel -q extract -F pyproject.toml -o {pot} app workers templates".split()
        )
    with pot.open("rb") as file:
        return read_po(file)


@pytest.fixture(scope="module")
def translated() -> Catalog:
    with CATALOGUE.open("rb") as file:
        return read_po(file, locale="zh_CN")


def messages(catalogue: Catalog) -> list[Message]:
    return [message for message in catalogue if message.id]


def forms(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def test_the_catalogue_has_every_msgid_and_no_other(written, translated):
    here, there = ({forms(m.id) for m in messages(one)} for one in (written, translated))
    assert here - there == set(), "run `make messages` and translate what is new"
    assert there - here == set(), "run `make messages`: these are used no more"
    assert not translated.obsolete


def test_every_msgid_is_translated(translated):
    assert not [m.id for m in messages(translated) if not all(map(str.strip, forms(m.string)))]
    assert not [m.id for m in messages(translated) if m.fuzzy]


def test_the_places_to_fill_are_the_same(translated):
    for message in messages(translated):
        wanted = sorted(PLACE.findall(forms(message.id)[-1]))
        for text in forms(message.string):
            assert sorted(PLACE.findall(text)) == wanted, message.id


def test_chinese_has_one_form_of_number(translated):
    assert translated.num_plurals == 1
    assert all(len(forms(m.string)) == 1 for m in messages(translated))


def test_sentences_end_in_full_width(translated):
    for message in messages(translated):
        for text in forms(message.string):
            assert not re.search(r"[\u4e00-\u9fff][,;:?!.]|[,;:?!][\u4e00-\u9fff]", text), text
            assert not re.search(r"[\u4e00-\u9fff][A-Za-z0-9%]|[A-Za-z0-9][\u4e00-\u9fff]", text), (
                f"a space between Chinese and Latin: {text}"
            )


def sources() -> list[Path]:
    return [path for name in ("app", "workers") for path in sorted((ROOT / name).rglob("*.py"))]


def test_no_error_goes_without_its_mark():
    """An error's sentence is inside N_, or it could not be found and translated."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISED:
                for given in node.args:
                    for part in getattr(given, "values", [given]):
                        text = str(part.value) if isinstance(part, ast.Constant) else ""
                        assert not re.search(r"\w \w", text), f"{path}:{given.lineno}: {text}"
