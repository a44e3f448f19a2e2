"""The words for what nodes say against a device; workers/health.py finds it."""

from typing import Any

from app.errors import N_

MISSING: dict[str, Any] = {"code": "missing", "grave": True}
LEAVING: dict[str, Any] = {"code": "leaving", "grave": True}

WORDS = {
    "lost": N_("The driver has lost this GPU (%(why)s). Most often only a restart brings it back."),
    "silent": N_("The GPU driver does not answer. What is shown was true before."),
    "missing": N_("The driver no longer lists this GPU."),
    "leaving": N_("The node was taken down on purpose; its devices are back when it is."),
    "xid": N_(
        "The driver reported error XID %(xid)s. Drain the node, reset the GPU and start the node "
        "process again."
    ),
    "xid_program": N_("A program made an error on this GPU (XID %(xid)s) in the last hour."),
    "xid_contained": N_(
        "The driver reported and contained a memory error (XID %(xid)s) in the last hour."
    ),
    "ecc": N_("%(count)s memory errors since the driver was loaded could not be corrected."),
    "remap_failed": N_("A broken part of its memory could not be replaced: it needs repair."),
    "remap_pending": N_("A part of its memory is replaced at the next reset."),
    "hot": N_("It is slowed down by heat."),
    "brake": N_("It is slowed down because the power supply asks for it."),
}


def reasons(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{code, grave, message, params}]: what `said` of a template, or the API, says of each."""
    return [
        {
            "code": one["code"],
            "grave": bool(one.get("grave")),
            "message": WORDS.get(one["code"], one["code"]),
            "params": {name: one[name] for name in one if name not in ("code", "grave")},
        }
        for one in problems
    ]
