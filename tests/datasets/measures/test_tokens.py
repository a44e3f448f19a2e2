"""A row as the model sees it: what training prepares, from a child that can be killed."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.config import ROOT
from app.datasets.measures import tokens
from app.errors import Invalid
from app.models import vocabulary
from tests.conftest import Client, sign_in
from tests.datasets.files import HTMX, row
from tests.datasets.measures.measured import dataset, starter
from tests.datasets.test_routes import one, page, test_id
from tests.models.chat_templates import CHATML, HEADERS, INSTRUCTIONS, REASONING
from tests.models.test_chat_template import CALL, RESULT, SYSTEM, TOOLS, answer, user
from workers.stages.prepare import Prepare
from workers.stages.run import Run

STARTER = ROOT / "workers" / "starter" / "model"
CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [user("你好 😀"), answer("hello 世界\n\n第二行")]},
    {"messages": [SYSTEM, user("a"), answer("b"), user("c"), answer("d e" * 30)]},
    {"messages": [user("a"), answer("b", reasoning_content="why"), user("c"), answer("d")]},
    {
        "messages": [user("a"), answer("", tool_calls=[CALL]), RESULT, answer("warm")],
        "tools": TOOLS,
    },
]


def model(tmp_path: Path, template: str | None) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name in vocabulary.FILES:
        if (STARTER / name).exists():
            (directory / name).write_bytes((STARTER / name).read_bytes())
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def prepared(directory: Path, row: dict[str, Any], tmp_path: Path, max_length: int) -> Prepare:
    words = vocabulary.load(directory)
    work = Prepare(
        run=Run(tmp_path),
        tokenizer=words.tokenizer,
        template=words.template,
        special=words.special,
        stops=set(words.stops),
        around=words.around,
        max_length=max_length,
        kind="pretrain" if "text" in row else "sft",
        now=datetime.now(),
    )
    work.read([row])
    return work


# -- the child -----------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [10_000, 24])
@pytest.mark.parametrize("template", [None, CHATML, REASONING, HEADERS, INSTRUCTIONS])
def test_it_shows_what_training_prepares(
    tmp_path: Path, template: str | None, max_length: int
) -> None:
    directory = model(tmp_path, template)
    for conversation in CONVERSATIONS:
        work = prepared(directory, conversation, tmp_path, max_length)
        first = tokens.look(directory, conversation, "sft", max_length=max_length)
        more = range(1, len(first.parts))
        looks = [first] + [
            tokens.look(directory, conversation, "sft", max_length=max_length, part=part)
            for part in more
        ]
        shown = [
            (
                [one.id for one in look.tokens[: look.kept]],
                [one.trained for one in look.tokens[: look.kept]],
            )
            for look in looks
            if look.kept_trained
        ]
        examples = [work.examples[at] for at in range(len(work.examples))]
        assert shown == [(list(ids), [*map(bool, flags)]) for ids, flags in examples]
        for look in looks:
            assert look.trained == sum(one.trained for one in look.tokens)


def test_every_character_is_shown_once(tmp_path: Path) -> None:
    directory = model(tmp_path, CHATML)
    look = tokens.look(directory, CONVERSATIONS[0], "sft")
    text = "".join(one.text or "" for one in look.tokens)
    assert text == (
        "<|im_start|>user\n你好 😀<|im_end|>\n<|im_start|>assistant\nhello 世界\n\n第二行<|im_end|>\n"
    )
    assert any(one.text is None for one in look.tokens)  # 😀 takes several


def test_other_kinds(tmp_path: Path) -> None:
    directory = model(tmp_path, None)
    plain = tokens.look(directory, {"text": "今天天气很好"}, "pretrain")
    work = prepared(directory, {"text": "今天天气很好"}, tmp_path, 10_000)
    assert [one.id for one in plain.tokens] == list(work.examples[0][0])
    assert [one.trained for one in plain.tokens] == [*map(bool, work.examples[0][1])]
    preference = {
        "messages": [user("a")],
        "chosen": answer("good one"),
        "rejected": answer("bad"),
    }
    chosen, rejected = (tokens.look(directory, preference, "preference", part=n) for n in (0, 1))
    assert chosen.parts == rejected.parts == ["chosen", "rejected"]
    assert "good one" in "".join(one.text or "" for one in chosen.tokens if one.trained)
    assert "bad" in "".join(one.text or "" for one in rejected.tokens if one.trained)
    judged = {"messages": [user("a"), answer("b"), user("c"), answer("d")], "label": True}
    found = tokens.look(directory, judged, "kto")
    assert [one.text for one in found.tokens if one.trained] == ["d", "<|im_end|>"]


def test_long_rows_are_paged(tmp_path: Path) -> None:
    directory = model(tmp_path, None)
    long = {"messages": [user("好" * 3000), answer("是" * 500)]}
    whole = tokens.look(directory, long, "sft", limit=10_000)
    pages, offset = [], 0
    while offset is not None:
        found = tokens.look(directory, long, "sft", offset=offset)
        pages += found.tokens
        offset = found.next_offset
    assert pages == whole.tokens
    assert len(pages) == whole.total > 3000


@pytest.mark.parametrize(
    ("template", "row", "refused"),
    [
        (CHATML, {"messages": [user("a")]}, "no_answer"),
        (CHATML, {"messages": [user("a"), answer("b", weight=0)]}, "unweighted"),
        (INSTRUCTIONS, {"messages": [user("a"), user("b"), answer("c")]}, "refused"),
        (CHATML.replace("'<|im_end|>\\n'", "'\\n'"), CONVERSATIONS[0], "no_stop"),
    ],
)
def test_a_row_that_trains_nothing_says_why(
    tmp_path: Path, template: str, row: dict[str, Any], refused: str
) -> None:
    found = tokens.look(model(tmp_path, template), row, "sft")
    assert (found.refused, found.trained) == (refused, 0)
    assert bool(found.tokens) == (refused != "refused")
    assert tokens.REFUSALS[refused] % {"reason": found.reason}


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set ns = namespace(s='x' * 999) %}{% for a in range(999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
REACHES = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


@pytest.mark.parametrize("template", [LOOPS, GROWS, REACHES])
def test_a_hostile_template_is_refused(tmp_path: Path, template: str) -> None:
    began = time.monotonic()
    found = tokens.look(model(tmp_path, template), CONVERSATIONS[0], "sft")
    assert (found.refused, found.tokens) == ("refused", [])
    assert found.reason
    assert time.monotonic() - began < tokens.SECONDS


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SECONDS", 0.001)
    with pytest.raises(Invalid) as caught:
        tokens.look(model(tmp_path, None), CONVERSATIONS[0], "sft")
    assert caught.value.code == "tokens_failed"


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    directory = model(tmp_path, None)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(Invalid) as caught:
        tokens.look(directory, CONVERSATIONS[0], "sft")
    assert caught.value.code == "bad_model"


def test_the_child_has_no_secrets() -> None:
    assert set(tokens.environment()) <= {
        *tokens.PASSED,
        "PYTHONDONTWRITEBYTECODE",
        "TOKENIZERS_PARALLELISM",
        "RAYON_NUM_THREADS",
    }


# -- pages and API ---------------------------------------------------------------------------


def test_the_fragment(db: Session, client: Client) -> None:
    chosen = starter(db)
    version = dataset(db, client.workspace, [row("<b>你好</b>", "好的，再见")])
    path = f"/datasets/{version.dataset_id}/rows/0/tokens"
    location = f"/datasets/{version.dataset_id}/rows/0?version=&view=tokens"
    assert client.get(path).headers["location"] == location
    soup = page(client.get(path, headers=HTMX))
    counts = one(soup, test_id("tokens-counts"))
    trained = soup.select(".tokens .token-trained")
    assert int(str(counts["data-trained"])) == len(trained)
    assert "".join(each.get_text() for each in trained) == "好的，再见<|im_end|>"
    assert soup.select("b") == []
    assert soup.select(test_id("tokens-cut")) == []
    cut = page(client.get(f"{path}?model={chosen.id}&max_length=12", headers=HTMX))
    assert len(cut.select(".token-lost")) == int(str(counts["data-total"])) - 12
    assert one(cut, test_id("tokens-cut"))
    assert (
        client.get(f"/datasets/{version.dataset_id}/rows/1/tokens", headers=HTMX).status_code == 404
    )
    sign_in(db, client)
    assert client.get(path).status_code == 404


def test_the_fragment_shows_a_hostile_template_as_a_sentence(db: Session, client: Client) -> None:
    starter(db, template="{% for")
    version = dataset(db, client.workspace, [row()])
    soup = page(client.get(f"/datasets/{version.dataset_id}/rows/0/tokens", headers=HTMX))
    assert "chat template cannot be read" in one(soup, ".alert-danger").get_text()


def test_without_a_model(db: Session, client: Client) -> None:
    version = dataset(db, client.workspace, [row()])
    soup = page(client.get(f"/datasets/{version.dataset_id}/rows/0/tokens", headers=HTMX))
    assert "no base model" in soup.get_text()


def test_api(db: Session, api: Client) -> None:
    chosen = starter(db)
    version = dataset(db, api.workspace, [row("问题", "答案"), {"messages": [user("a")]}])
    path = f"/api/v1/datasets/{version.dataset_id}/rows"
    body = api.get(f"{path}/0/tokens", params={"model": chosen.name, "max_length": 5}).json()
    assert (body["refused"], body["message"], body["kept"]) == ("", "", 5)
    assert body["total"] == len(body["data"]) > 5
    assert body["trained"] == sum(each["trained"] for each in body["data"])
    paged = api.get(f"{path}/0/tokens", params={"limit": 3, "offset": 2}).json()
    assert paged["data"] == body["data"][2:5]
    assert paged["has_more"]
    assert "no assistant turn" in api.get(f"{path}/1/tokens").json()["message"]
    assert api.get(f"{path}/2/tokens").status_code == 404
    assert api.get(f"{path}/0/tokens", params={"model": "nobody"}).status_code == 404
