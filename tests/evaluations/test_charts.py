"""The charts of an evaluation, in a real browser."""

import time

import pytest
from playwright.sync_api import expect
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.evaluations import charts, figures
from app.evaluations.figures import Scores
from app.evaluations.states import OPEN
from app.evaluations.tables import Candidate, Evaluation
from tests.dashboard.test_manners import (  # noqa: F401 - fixtures
    Admin,
    address,
    admin,
    browser,
    page,
)
from tests.evaluations.people import create, mood, now_of, published, reviews
from tests.factories import make_model, make_principal

SCORERS = [{"kind": "accuracy"}, {"kind": "chrf"}]


def test_a_few_different_scores_are_a_bin_each():
    ours = Scores("accuracy", values={0: 1.0, 1: 0.0, 2: 1.0})
    theirs = Scores("accuracy", values={0: 0.0})
    assert figures.binned([ours, theirs]) == [
        [[0.0, 0.0, 1], [1.0, 1.0, 2]],
        [[0.0, 0.0, 1], [1.0, 1.0, 0]],
    ]


def test_many_are_counted_in_bins_that_all_share():
    values = {number: number / 40 for number in range(41)}
    one, other = figures.binned([Scores("chrf", values=values), Scores("chrf", values={0: 1.0})])
    assert (one[0][:2], one[-1][:2]) == ([0, 0.05], [0.95, 1])
    assert sum(rows for *_, rows in one) == 41
    assert other[-1] == [0.95, 1, 1]
    (one,) = figures.binned([Scores("perplexity", values={n: 2 + n for n in range(12)})])
    assert (one[0][0], one[-1][1]) == (2, 13)


def test_nothing_is_drawn_of_nothing():
    assert figures.binned([Scores("chrf")]) == [[]]
    assert charts.spans([]) == []


def test_intervals_share_an_axis():
    first, second = charts.spans(
        [{"low": 0.0, "value": 0.5, "high": 1.0}, {"low": 0.5, "value": 0.5, "high": 0.5}]
    )
    assert first == {"low": 6, "value": 50, "high": 94}
    assert second == {"low": 50, "value": 50, "high": 50}


@pytest.mark.slow
def test_the_charts_in_a_browser(db: Session, admin: Admin, page):  # noqa: F811
    who = make_principal(admin.user, admin.workspace)
    version = published(who, reviews(60))
    base = make_model(db, admin.workspace, kind="base")
    for step in (3, 4, 6):
        said = [mood(number + (number % step == 0)) for number in range(60)]
        other = published(who, reviews(60, said), name=f"step {step}")
        one = ended(create(who, version, f"answers:{other.id}", "answers:last", scorers=SCORERS))
        model = make_model(db, admin.workspace, kind="adapter", base_id=base.id)
        db.execute(update(Candidate).where(Candidate.target == other.id).values(model_id=model.id))
        db.commit()
    page.set_default_timeout(60_000)  # its first page, on a busy machine
    page.goto(f"/evaluations/{one.id}")
    expect(page.get_by_test_id("distribution").locator("canvas")).to_have_count(2)
    drawn = page.get_by_test_id("distribution").first.locator(".u-over")
    drawn.hover(position={"x": 5 + drawn.bounding_box()["width"] * 0.8, "y": 50})
    legend = page.get_by_test_id("distribution").first.locator(".u-legend")
    expect(legend).to_contain_text("100%")
    expect(legend).to_contain_text("60")
    assert page.get_by_test_id("leaderboard").locator("svg line").count() == 4
    history = page.get_by_test_id("history-chart")
    history.locator(".u-over").hover()
    expect(history.locator(".u-legend")).to_contain_text("#2 step 4")
    page.get_by_test_id("distribution").first.get_by_text("As a table").click()
    expect(page.get_by_test_id("distribution").first.locator("details tbody tr")).to_have_count(2)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
        expect(history.locator("canvas")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def ended(one: Evaluation) -> Evaluation:
    """The application behind the page works on it."""
    end = time.monotonic() + 90
    while now_of(one).state in OPEN:
        assert time.monotonic() < end
        time.sleep(0.1)
    return one
