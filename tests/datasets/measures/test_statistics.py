"""The Statistics tab and its API, with a real measure."""

import json

import pytest
from bs4 import BeautifulSoup
from sqlalchemy.orm import Session

from app.datasets.measures import histograms
from app.datasets.measures import service as measures
from app.datasets.tables import DatasetMeasure, DatasetVersion
from app.queue import transaction
from tests.conftest import Client, sign_in
from tests.datasets.files import row
from tests.datasets.measures.measured import be_the_node, dataset, starter
from tests.datasets.test_routes import one, page, test_id
from tests.factories import make_dataset, make_membership, make_user, make_workspace

ROWS = [
    row("判断：好吃", "正面"),
    row("判断：难吃", "负面"),
    row("判断：好吃", "正面"),
    *(row("判断：" + "不错，" * count, "正面") for count in range(1, 40)),
    {"messages": [{"role": "user", "content": "nobody answers this one"}]},
]


@pytest.fixture
def version(db: Session, client: Client) -> DatasetVersion:
    starter(db)
    return dataset(db, client.workspace, ROWS)


def path_of(version: DatasetVersion) -> str:
    return f"/datasets/{version.dataset_id}/statistics"


def number(soup: BeautifulSoup, name: str) -> int:
    return int(one(soup, test_id(name)).get_text().split()[0].replace(",", ""))


def test_the_tab_starts_the_measure_and_shows_it(client: Client, version: DatasetVersion) -> None:
    path = path_of(version)
    soup = page(client.get(path))
    form = one(soup, "form[hx-post]")
    assert (form["hx-post"], form["hx-trigger"]) == (path, "load, submit")  # small: by itself
    fields = {str(field["name"]): str(field["value"]) for field in form.select("input")}
    answer = client.post(path, data=fields, headers={"hx-request": "true"})
    waiting = one(page(answer), "#statistics")
    assert waiting["data-state"] == "queued"
    assert str(waiting["hx-get"]).startswith(f"{path}/panel?version=")
    be_the_node()
    soup = page(client.get(str(waiting["hx-get"])))
    assert one(soup, "#statistics")["data-state"] == "done"
    assert not one(soup, "#statistics").get("hx-get")
    assert number(soup, "statistics-rows") == len(ROWS)
    assert number(soup, "statistics-duplicates") == 1
    bins = json.loads(str(one(soup, "#lengths-chart")["data-bins"]))
    assert sum(each["rows"] for each in bins) == len(ROWS) - 1
    assert len(one(soup, test_id("statistics-bins")).select("tbody tr")) == len(bins)
    labels = one(soup, test_id("statistics-labels")).get_text(" ", strip=True)
    assert "正面" in labels
    assert "41" in labels
    untrained = one(soup, test_id("statistics-untrained"))
    assert "No assistant turn" in untrained.get_text()
    link = one(untrained, "a")
    assert link.get_text() == "43"
    shown = page(client.get(str(link["href"])))
    assert "nobody answers this one" in one(shown, "#row").get_text()


def test_moving_the_maximum_length_needs_no_reload(client: Client, version: DatasetVersion) -> None:
    path = path_of(version)
    client.post(path, data={"version": "1"})
    be_the_node()
    soup = page(client.get(path))
    field = one(soup, test_id("statistics-max-length"))
    assert str(field["hx-get"]).startswith(f"{path}/lengths?")
    assert (field["hx-target"], field["value"]) == ("#lengths", "2048")
    assert number(soup, "cut-truncated") == number(soup, "cut-lost") == 0
    assert number(soup, "cut-untrained") == 1
    fragment = page(client.get(str(field["hx-get"]), params={"max_length": "50"}))
    assert fragment.select("nav") == []  # the fragment alone
    with transaction() as db:
        found = db.query(DatasetMeasure).one()
    cut = histograms.cut(found.result or {}, 50)
    assert number(fragment, "cut-truncated") == cut.truncated > 0 or cut.late > 0
    assert number(fragment, "cut-lost") == cut.lost > 0
    assert number(fragment, "cut-untrained") == cut.untrained > 1
    assert "before their first answers" in fragment.get_text()
    for odd in ("0", "-5", "x"):
        assert client.get(f"{path}/lengths?max_length={odd}").status_code in (200, 422)
    assert client.get(f"{path}/lengths?max_length=999999999").status_code == 200


def test_the_validation_tab_can_ask_before_anything_is_measured(
    client: Client, version: DatasetVersion
) -> None:
    soup = page(client.get(f"{path_of(version)}/lengths?max_length=512"))
    assert "not measured yet" in one(soup, "#lengths").get_text()
    assert str(one(soup, "#lengths a")["href"]).startswith(path_of(version))


def test_a_large_version_is_measured_when_somebody_asks(db: Session, client: Client) -> None:
    starter(db)
    large = make_dataset(db, client.workspace, rows=1_000_000)
    db.commit()
    form = one(page(client.get(path_of(large))), "form[hx-post]")
    assert "hx-trigger" not in form.attrs
    without = client.post(path_of(large), data={"version": "1"})
    assert without.status_code == 303
    assert without.headers["location"].startswith(f"{path_of(large)}?version=1&model=")
    assert one(page(client.get(path_of(large))), "#statistics")["data-state"] == "queued"


def test_who_may(db: Session, client: Client, version: DatasetVersion) -> None:
    viewer = make_user(db)
    make_membership(db, client.workspace, viewer, "viewer")
    workspace = client.workspace
    sign_in(db, client, viewer, workspace)
    soup = page(client.get(path_of(version)))
    assert soup.select("form[hx-post]") == []
    assert "A member of the workspace" in soup.get_text()
    assert client.post(path_of(version)).status_code == 403
    sign_in(db, client)  # somebody else, elsewhere
    for path in (path_of(version), f"{path_of(version)}/panel", f"{path_of(version)}/lengths"):
        assert client.get(path).status_code == 404
    assert client.post(path_of(version)).status_code == 404


def test_a_model_of_another_workspace_is_not_known(
    db: Session, client: Client, version: DatasetVersion
) -> None:
    foreign = starter(db)
    foreign.workspace_id = make_workspace(db).id
    db.commit()
    assert client.get(f"{path_of(version)}?model={foreign.id}").status_code == 404
    assert foreign.id not in client.get(path_of(version)).text


def test_without_a_model_and_before_the_rows_are_there(db: Session, client: Client) -> None:
    draft = dataset(db, client.workspace, ROWS)
    assert "There is no base model yet" in page(client.get(path_of(draft))).get_text()
    starter(db)
    moving = make_dataset(db, client.workspace, status="validating", segments=[], rows=0)
    db.commit()
    assert "Not ready to be measured" in page(client.get(path_of(moving))).get_text()
    assert client.post(path_of(moving)).status_code == 409


def test_a_failure_is_said_and_can_be_repeated(db: Session, client: Client) -> None:
    starter(db, template="{% for")
    version = dataset(db, client.workspace, ROWS)
    client.post(path_of(version))
    be_the_node()
    soup = page(client.get(path_of(version)))
    assert "chat template cannot be read" in one(soup, ".alert-danger").get_text()
    assert "hx-trigger" not in one(soup, "form[hx-post]").attrs  # not again and again
    assert "Try again" in one(soup, test_id("statistics-start")).get_text()
    client.post(path_of(version))
    assert one(page(client.get(path_of(version))), "#statistics")["data-state"] == "queued"
    be_the_node()


def test_one_result_for_all_models_that_read_alike(
    db: Session, client: Client, version: DatasetVersion
) -> None:
    client.post(path_of(version))
    be_the_node()
    twin, other = starter(db), starter(db, template="{{ messages[0].content }}<|im_end|>")
    db.commit()
    states = [
        one(page(client.get(f"{path_of(version)}?model={each.id}")), "#statistics")["data-state"]
        for each in (twin, other)
    ]
    assert states == ["done", ""]


def test_asking_again(db: Session, version: DatasetVersion) -> None:
    """Twice is once; what its node is silent about may be asked for again."""
    model = measures.bases(db, "x")[0]
    first = measures.ask(db, version, model)
    assert measures.ask(db, version, model).id == first.id
    assert measures.claim(db, "node-1") is first
    assert measures.claim(db, "node-2") is None
    assert measures.ask(db, version, model).state == "running"
    first.touched_at -= 2 * measures.SILENT
    db.flush()
    assert measures.ask(db, version, model).state == "queued"
    assert measures.held(db, first.id, 1) is None
    measures.claim(db, "node-2")
    assert first.fence == 2
    measures.finish(db, first.id, 1, result={})  # the first node is back, too late
    assert first.state == "running"
    measures.again(db, "node-2")
    assert (first.state, first.node_id) == ("queued", None)


def test_chinese(client: Client, version: DatasetVersion) -> None:
    client.post(path_of(version))
    be_the_node()
    client.cookies.set("danlu_lang", "zh")
    assert page(client.get(path_of(version))).select(test_id("statistics-chart"))


# -- API -----------------------------------------------------------------------------------


def test_api(db: Session, api: Client) -> None:
    model = starter(db)
    version = dataset(db, api.workspace, ROWS)
    path = f"/api/v1/datasets/{version.dataset_id}/statistics"
    missing = api.get(path)
    assert (missing.status_code, missing.json()["code"]) == (409, "not_measured")
    asked = api.post(path, json={"version": "1", "model": model.name})
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    waiting = api.get(path)
    assert (waiting.status_code, waiting.json()["progress"]) == (202, 0.0)
    be_the_node()
    found = api.get(path, params={"max_length": 50, "model": model.id})
    assert found.status_code == 200
    body = found.json()
    assert body["figures"]["rows"] == len(ROWS)
    assert body["figures"]["untrained"]["count"] == 1
    assert [each["max_length"] for each in body["figures"]["max_lengths"]] == [512]
    assert body["cut"]["max_length"] == 50
    assert body["cut"]["lost"] > 0
    assert "lengths" not in body["figures"]
    again = api.post(path)
    assert (again.status_code, again.json()["state"]) == (200, "done")
    assert api.get(path, params={"model": "nobody"}).status_code == 404
    assert api.get(path, params={"max_length": 1}).status_code == 422
