"""What a workspace is due: read and set over the API."""

from sqlalchemy.orm import Session

from tests.conftest import Client
from tests.factories import make_workspace


def test_weight_and_priority_over_the_api(db: Session, api: Client) -> None:
    api.user.is_platform_admin = True
    other = make_workspace(db).id
    db.commit()
    path = f"/api/v1/quotas/{other}/share"
    assert api.get(path).json() == {"workspace": other, "weight": 1.0, "priority": "normal"}
    put = api.put(path, json={"weight": 3})
    assert put.json() == {"workspace": other, "weight": 3.0, "priority": "normal"}
    put = api.put(path, json={"priority": "high"})
    assert put.json() == {"workspace": other, "weight": 3.0, "priority": "high"}
    for wrong in ({}, {"weight": 0}, {"weight": 1001}, {"priority": "urgent"}, {"x": 1}):
        assert api.put(path, json=wrong).status_code == 422, wrong
    assert api.put("/api/v1/quotas/ws_none/share", json={"weight": 3}).status_code == 404


def test_a_member_reads_their_own_and_sets_none(db: Session, api: Client) -> None:
    api.user.is_platform_admin = False
    other = make_workspace(db).id
    db.commit()
    path = f"/api/v1/quotas/{api.workspace.id}/share"
    assert api.get(path).json()["weight"] == 1.0
    assert api.put(path, json={"weight": 3}).status_code == 403
    assert api.get(f"/api/v1/quotas/{other}/share").status_code == 404
