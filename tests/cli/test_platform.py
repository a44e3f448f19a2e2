"""`danlu admin storage` and `danlu admin alerts` against a running Danlu."""

import json

from tests.cli.test_commands import danlu, home

__all__ = ["danlu", "home"]  # fixtures


def test_storage(danlu, stack):
    assert "database" in danlu("admin", "storage", "show")
    found = json.loads(danlu("admin", "storage", "show", "--json"))
    assert {one["kind"] for one in found["kinds"]} >= {"base", "database"}
    assert found["disks"][0]["floor"] > 0
    due = json.loads(danlu("admin", "storage", "clean", "--dry-run", "--json"))
    assert (due["data"], due["bytes"], due["count"]) == ([], 0, 0)
    assert danlu("admin", "storage", "clean", "--yes").strip() == "0 B"


def test_alerts(danlu, stack):
    danlu("admin", "alerts", "list", "--all")
    assert json.loads(danlu("admin", "alerts", "list", "--json"))["has_more"] is False
    assert "Nobody is told" in danlu("admin", "alerts", "rules", both=True)
    assert "nothing here" in danlu("admin", "alerts", "test", "rul_none", fails=True)
