"""The language of the command: `--lang zh` or `en`, else DANLU_LANG, else the terminal's.

What a command says is in the catalogue of the pages. Reading that takes a second, so it is compiled
once and kept in the user's cache.
"""

import gettext
import hashlib
import os
import sys
from pathlib import Path

CATALOGUE = Path(__file__).parents[1] / "locale/zh_CN/LC_MESSAGES/danlu.po"


def chosen(arguments: list[str], environment: dict[str, str]) -> str:
    """`zh` or `en`."""
    for number, argument in enumerate(arguments):
        name, _equals, value = argument.partition("=")
        if name == "--lang":
            return "zh" if (value or "".join(arguments[number + 1 : number + 2])) == "zh" else "en"
    for name in ("DANLU_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"


def catalogue(language: str) -> gettext.NullTranslations:
    if language == "en":
        return gettext.NullTranslations()
    source = CATALOGUE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "danlu"
    compiled = cache / f"{hashlib.sha256(source).hexdigest()[:16]}.mo"
    try:
        with compiled.open("rb") as file:
            return gettext.GNUTranslations(file)
    except OSError:
        return compile_to(compiled)


def compile_to(compiled: Path) -> gettext.NullTranslations:
    """The catalogue, kept for the next time where that can be."""
    import io

    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    buffer = io.BytesIO()
    with CATALOGUE.open("rb") as file:
        write_mo(buffer, read_po(file, locale="zh_CN"))
    partial = compiled.with_name(f"{compiled.name}.{os.getpid()}")
    try:
        compiled.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(buffer.getvalue())
        partial.replace(compiled)
    except OSError:
        partial.unlink(missing_ok=True)
    buffer.seek(0)
    return gettext.GNUTranslations(buffer)


language = chosen(sys.argv[1:], dict(os.environ))
_translations = catalogue(language)


def _(message: str, **params: object) -> str:
    """`message` in the reader's language, its places filled."""
    text = _translations.gettext(message)
    return text % params if params else text
