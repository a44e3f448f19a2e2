import threading

import pytest

from app import sealing
from app.accounts import platform
from app.accounts.platform import HIDDEN, Secret, Section
from app.accounts.tables import PlatformSettings
from app.errors import Invalid, NotFound
from app.queue import transaction
from tests import factories as make
from tests.conftest import sign_in


class Mail(Section):
    host: str = ""
    port: int = 25
    password: Secret = ""
    tls: bool = True


@pytest.fixture
def mail(monkeypatch):
    """A platform with one more section, as others add theirs."""

    class Wider(platform.Platform):
        mail: Mail = Mail()

    monkeypatch.setattr(platform, "SECTIONS", platform.SECTIONS | {"mail": Mail})
    monkeypatch.setattr(platform, "Platform", Wider)


def test_an_empty_database_has_the_defaults(db):
    assert platform.read(db) == platform.Platform()


def test_what_is_not_named_stays(db, mail):
    platform.change(db, None, mail={"host": "mx", "port": 465})
    platform.change(db, None, mail={"port": 587}, general={"name": "Lab"})
    found = platform.read(db)
    assert (found.mail.host, found.mail.port, found.general.name) == ("mx", 587, "Lab")


def test_a_secret_is_sealed_hidden_kept_and_forgotten(db, mail):
    shown = platform.change(db, None, mail={"password": "p4ss"}).model_dump(mode="json")
    kept = db.get(PlatformSettings, 1).sections["mail"]["password"]
    assert shown["mail"]["password"] == HIDDEN
    assert sealing.unseal(kept) == "p4ss"
    found = platform.change(db, None, mail={"password": HIDDEN, "host": "mx"})
    assert platform.reveal(found.mail.password) == "p4ss"
    assert "p4ss" not in repr(found)
    found = platform.change(db, None, mail={"password": ""})
    assert platform.reveal(found.mail.password) == ""


def test_a_wrong_value_names_its_field(db, mail):
    with pytest.raises(Invalid) as caught:
        platform.change(db, None, mail={"port": "many"})
    assert caught.value.field == "mail.port"
    with pytest.raises(Invalid) as caught:
        platform.change(db, None, mail={"ports": 1})
    assert caught.value.field == "mail.ports"
    with pytest.raises(NotFound):
        platform.change(db, None, post={"port": 1})


def test_what_another_version_wrote_stops_nothing(db):
    db.add(
        PlatformSettings(
            id=1, sections={"gone": {"a": 1}, "general": {"name": "", "b": 2, "language": "zh"}}
        )
    )
    db.flush()
    found = platform.read(db)
    assert (found.general.name, found.general.language) == ("Danlu", "zh")


def test_two_who_change_different_sections_lose_nothing(db, mail):
    platform.change(db, None, general={"name": "Lab"})
    db.commit()
    first_holds, second_asks = threading.Event(), threading.Event()

    def first():
        with transaction() as session:
            platform.change(session, None, mail={"host": "mx"})
            first_holds.set()
            second_asks.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    first_holds.wait(5)
    with transaction() as session:
        session.get(PlatformSettings, 1)
        second_asks.set()
        platform.change(session, None, general={"language": "en"})
    thread.join()
    db.expire_all()
    found = platform.read(db)
    assert (found.mail.host, found.general.language, found.general.name) == ("mx", "en", "Lab")


# -- the page and the API ----------------------------------------------------------------


@pytest.fixture
def admin(db, anonymous):
    sign_in(db, anonymous, make.make_user(db, is_platform_admin=True))
    return anonymous


def test_the_page_saves_a_section_and_says_so(admin):
    done = admin.post("/admin/settings/general", data={"name": "Alchemy", "language": "zh"})
    assert done.status_code == 303
    page = admin.get(done.headers["location"])
    assert "已保存" in page.text
    assert "<title>设置 · Alchemy</title>" in page.text
    admin.cookies.clear()
    assert "Alchemy" in admin.get("/login").text


def test_a_refused_form_keeps_what_was_typed(admin):
    page = admin.post("/admin/settings/general", data={"name": "", "language": "fr"})
    assert page.status_code == 422
    assert 'id="e-name"' in page.text
    assert 'id="e-language"' in page.text
    assert admin.post("/admin/settings/nothing", data={}).status_code == 404


def test_the_api_changes_what_is_sent(db, api):
    api.user.is_platform_admin = True
    db.commit()
    assert api.get("/api/v1/settings").json()["general"] == {"name": "Danlu", "language": ""}
    found = api.patch("/api/v1/settings", json={"general": {"language": "en"}})
    assert found.json()["general"] == {"name": "Danlu", "language": "en"}
    wrong = api.patch("/api/v1/settings", json={"general": {"language": "fr"}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "general.language"
