"""What NVML says, read through nvidia-ml-py from a library of ours in the place of NVIDIA's."""

import os
import subprocess

import pynvml
import pytest

from app.cluster import nodes
from app.cluster import service as cluster
from app.config import settings
from app.errors import Invalid
from tests.factories import make_workspace
from tests.workers import nvml
from workers import gpus, health, strangers

GIB = 1024**3


@pytest.fixture
def cards(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml.use(monkeypatch, nvml.Cards(tmp_path / "readings"))


@pytest.fixture
def session(cards):
    found = gpus.Session()
    yield found
    found.close()


def codes(device):
    return [(problem["code"], problem["grave"]) for problem in device["problems"]]


def test_a_node_of_eight(cards, session):
    cards.set(5, use=97, used=120 * GIB, temperature=71, power=688_400, throttle=4)
    found = session.read()
    assert [device["name"] for device in found] == [f"cuda:{number}" for number in range(8)]
    assert session.versions == {"driver": "580.95.05", "cuda": "13.0"}
    assert found[5] == {
        "name": "cuda:5",
        "kind": "cuda",
        "model": "NVIDIA H200",
        "uuid": "GPU-00000005-7bd1-4e5c-9d0a-2f1c5e6a7b80",
        "memory": 150_754_820_096,
        "healthy": True,
        "problems": [],
        "facts": {
            "card": "GPU-00000005-7bd1-4e5c-9d0a-2f1c5e6a7b80",
            "pci": "00000000:59:00.0",
            "compute": "9.0",
        },
        "stats": {
            "use": 97,
            "memory": 120 * GIB,
            "temperature": 71,
            "power": 688.4,
            "power_limit": 700.0,
            "throttle": ["power"],
        },
        "processes": [],
    }


def test_without_a_driver_there_is_no_gpu(cards, session):
    cards.set(driver=None)
    assert session.read() == []
    cards.set(driver="580.95.05")
    assert len(session.read()) == 8


def test_what_a_card_does_not_say_is_left_out(cards, session):
    """As vGPUs and some consumer cards are; and one whose memory is the machine's."""
    cards.set(0, use=None, temperature=None, power=None, limit=None, throttle=None, ecc=None,
              remap_pending=None, mig=None, pci=None, compute=None)  # fmt: skip
    cards.set(1, total=None, used=None)
    vague, shared = session.read()[:2]
    assert vague["healthy"]
    assert vague["stats"] == {"memory": 640 * 1024**2}
    assert vague["facts"] == {"card": vague["uuid"], "pci": "", "compute": ""}
    assert shared["memory"] > shared["stats"]["memory"] > 0


def test_slices_are_devices_of_their_own(cards, session):
    cards.slice(2, "3g.71gb", "1g.18gb")
    found = {device["name"]: device for device in session.read()}
    assert "cuda:2" not in found
    assert len(found) == 9
    part = found["cuda:2:1"]
    assert (part["model"], part["uuid"]) == ("NVIDIA H200 MIG 1g.18gb", "MIG-00000002-1")
    assert (part["memory"], part["stats"]["memory"]) == (18 * GIB, GIB // 2)
    assert part["facts"]["slice"] == "1g.18gb"
    assert part["facts"]["card"] == "GPU-00000002-7bd1-4e5c-9d0a-2f1c5e6a7b80"
    assert "use" not in part["stats"]
    assert part["stats"]["power"] == 76.5


def test_a_card_that_is_lost_and_comes_back(cards, session, monkeypatch):
    monkeypatch.setattr(gpus, "REOPEN", 0)
    before = session.read()[3]
    cards.set(3, error=pynvml.NVML_ERROR_GPU_IS_LOST)
    found = session.read()
    assert codes(found[3]) == [("lost", True)]
    assert {**found[3], "healthy": True, "problems": [], "stats": before["stats"]} == before
    assert all(device["healthy"] for device in found if device["name"] != "cuda:3")
    cards.set(3, error=None)
    assert session.read()[3] == before


def test_a_card_that_was_never_seen_well(cards, session):
    cards.set(3, error=pynvml.NVML_ERROR_GPU_IS_LOST)
    lost = session.read()[3]
    assert (lost["name"], lost["model"], lost["healthy"]) == ("cuda:3", "", False)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"ecc": 2}, ("ecc", True)),
        ({"remap_pending": 1}, ("remap_pending", False)),
        ({"remap_pending": 1, "remap_failed": 1}, ("remap_failed", True)),
        ({"throttle": 0x40}, ("hot", False)),
        ({"throttle": 0x80}, ("brake", False)),
    ],
)
def test_what_speaks_against_a_card(cards, session, said, code):
    cards.set(6, **said)
    found = session.read()
    assert codes(found[6]) == [code]
    assert found[6]["healthy"] is not code[1]
    assert all(device["healthy"] for device in found[:6])


def test_critical_errors_are_heard(cards, session, monkeypatch):
    assert all(device["healthy"] for device in session.read())
    cards.set(event=["4 48", "5 31", "6 94"])
    found = session.read()
    assert [codes(device) for device in found[4:7]] == [
        [("xid", True)],
        [("xid_program", False)],
        [("xid_contained", False)],
    ]
    assert [device["healthy"] for device in found[4:7]] == [False, True, True]
    assert session.read()[4]["problems"][0]["xid"] == 48, "it stays, though it was told once"
    monkeypatch.setattr(health, "RECENT", -1)
    assert [codes(device) for device in session.read()[4:7]] == [[("xid", True)], [], []]


def test_a_card_that_was_reset_starts_anew(cards, session, monkeypatch):
    monkeypatch.setattr(gpus, "REOPEN", 0)
    session.read()
    cards.set(event=["4 48", "5 31", "6 94", "0 79"])
    cards.set(0, error=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert codes(session.read()[0]) == [("lost", True)]
    cards.set(0, error=None)
    assert session.read()[0]["healthy"]


def test_a_driver_that_hangs_is_asked_once(cards, monkeypatch):
    monkeypatch.setattr(gpus, "NVML_TIMEOUT", 0.2)
    found = gpus.Gpus()
    first = found.list()
    assert len(first) == 8
    cards.set(hang=3)
    silent = found.list()
    assert [codes(device) for device in silent] == [[("silent", True)]] * 8
    assert silent[0] | {"healthy": True, "problems": [], "stats": first[0]["stats"]} == first[0]
    cards.set(hang=None)
    asked = found.asked
    found.list()
    assert found.asked in (asked, None), "not a thread for each beat"
    asked.result(10)
    assert found.list() == first


def test_gpus_that_are_hidden_are_not_ours(cards, session, monkeypatch):
    cards.slice(0, "3g.71gb", "1g.18gb")
    uuid = "GPU-00000002-7bd1-4e5c-9d0a-2f1c5e6a7b80"
    for hidden, names in {
        f"1,{uuid}": ["cuda:1", "cuda:2"],
        "0": ["cuda:0:0", "cuda:0:1"],
        "MIG-00000000-1,7": ["cuda:0:1", "cuda:7"],
        "": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert [device["name"] for device in session.read()] == names


def test_a_slice_is_named_to_cuda_by_its_uuid(db, cards, session):
    cards.slice(2, "3g.71gb", "1g.18gb")
    nodes.beat(db, settings.node, "h", {}, strangers.mark(session.read(), {}))
    db.commit()
    assert gpus.told_to_cuda(["cuda:0", "cuda:7"]) == "0,7"
    assert gpus.told_to_cuda(["cuda:2:1"]) == "MIG-00000002-1"
    assert gpus.told_to_cuda(["cpu:0"]) == ""


def test_no_two_slices_for_one_job_and_none_whole_beside_strangers(db, cards, session, process):
    cards.set(count=2)
    cards.slice(0, "3g.71gb", "3g.71gb")
    cards.set(1, process=[f"{process()} {30 * GIB}"])
    nodes.beat(db, settings.node, "h", {}, strangers.mark(session.read(), {}))
    team = make_workspace(db)

    def asked(owner, **more):
        values = {"owner_kind": "job", "owner_id": owner, "workspace_id": team.id, "devices": 1}
        cluster.ask(db, **values | more)
        found = [one.devices[0] for one in cluster.decide(db) if one.owner_id == owner]
        return found[0] if found else None

    with pytest.raises(Invalid):
        asked("both", devices=2)
    assert [asked(owner) for owner in "abc"] == ["cuda:0:0", "cuda:0:1", None]
    assert asked("too large", memory=120 * GIB) is None
    assert asked("share", memory=100 * GIB) == "cuda:1"
    cards.set(1, process=None)
    nodes.beat(db, settings.node, "h", {}, strangers.mark(session.read(), {}))
    cluster.release(db, "job", "share")
    cluster.withdraw(db, "job", "too large")
    assert [one.owner_id for one in cluster.decide(db)] == ["c"]


# -- strangers ---------------------------------------------------------------------------


@pytest.fixture
def process(request):
    """One that carries our marker, or does not."""
    started = []

    def start(**env):
        one = subprocess.Popen(["sleep", "60"], env={**os.environ, **env})
        started.append(one)
        return one.pid

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_programs_that_are_not_ours(cards, session, process):
    ours = process(DANLU_RUN="job_a-1", DANLU_HOME=str(settings.home))
    other = process()
    hidden = 4_194_300  # no process of ours to see has that number
    cards.set(1, process=[f"{ours} {4 * GIB}", f"{other} {3 * GIB}", f"{other} {3 * GIB}"])
    cards.set(2, process=[f"{hidden} {5 * GIB}"])
    cards.set(3, process=[f"{other} {GIB // 4}"])
    cards.set(4, process=[str(other)], used=9 * GIB)
    cards.set(5, process=[f"{hidden} {5 * GIB}"])
    found = strangers.mark(session.read(), {"cuda:1": {"job_a"}, "cuda:5": {"job_b"}})
    assert [device["taken"] for device in found[:6]] == [0, 3 * GIB, 5 * GIB, 0, 9 * GIB, 0]
    assert found[1]["stats"]["strangers"] == [{"pid": other, "name": "sleep", "memory": 3 * GIB}]
    assert found[2]["stats"]["strangers"] == [{"pid": hidden, "name": "", "memory": 5 * GIB}]
    assert found[3]["stats"]["strangers"], "told, though it is too little to count"
    assert "strangers" not in found[5]["stats"], "of a device we hold, that is most likely ours"
    assert "processes" not in found[0]


def test_strangers_can_be_left_out_of_account(cards, session, process, monkeypatch):
    monkeypatch.setattr(settings, "stranger_mb", -1)
    cards.set(1, process=[f"{process()} {3 * GIB}"])
    device = strangers.mark(session.read(), {})[1]
    assert device["taken"] == 0
    assert device["stats"]["strangers"]
