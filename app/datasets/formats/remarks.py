"""What is odd in a row that can be trained on: for warnings. Reads rows as they are kept."""

from app.datasets.formats.parts import Remark, Row, shown
from app.errors import N_


def remarks(row: Row) -> list[Remark]:
    """In the order of the row."""
    messages = row.get("messages")
    if messages is None:
        return []
    found: list[Remark] = []
    turns = [(at, one) for at, one in enumerate(messages) if one["role"] == "assistant"]
    after = "chosen" in row  # then no turn here is the last
    for number, (at, message) in enumerate(turns, start=1):
        path = f"messages[{at}].content"
        thinks = "<think>" in message["content"]
        if thinks and (after or number < len(turns)):
            found.append(Remark("think.early", path, EARLY))
        if thinks and "</think>" not in message["content"]:
            found.append(Remark("think.open", path, OPEN))
    if "label" not in row and not after and all(one.get("weight") == 0 for _, one in turns):
        found.append(Remark("weight.none", "messages", NOTHING))
    if "tools" in row:
        found += undeclared(row, turns)
    return found


EARLY = N_(
    "“<think>” stands in a turn that is not the assistant's last. Some platforms refuse that, and "
    "many chat templates take it out."
)
OPEN = N_("“<think>” is never closed with “</think>”.")
NOTHING = N_("Every turn of this row has the weight 0, so nothing is learned from it.")


def undeclared(row: Row, turns: list[tuple[int, Row]]) -> list[Remark]:
    known = {tool.get("function", tool).get("name") for tool in row["tools"]}
    return [
        Remark(
            "tool_calls.undeclared",
            f"messages[{at}].tool_calls[{number}].function.name",
            N_("The tool “%(name)s” is called, and is not among the tools of this row."),
            {"name": shown(call["function"]["name"])},
        )
        for at, message in turns
        for number, call in enumerate(message.get("tool_calls", ()))
        if call["function"]["name"] not in known
    ]
