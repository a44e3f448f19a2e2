"""Files that data comes in, made by hand."""

import io
import zipfile
from html import escape
from typing import Any

TYPES = "http://schemas.openxmlformats.org"
MAIN = f"{TYPES}/spreadsheetml/2006/main"
RELATIONS = f"{TYPES}/officeDocument/2006/relationships"


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return data.getvalue()


def column(at: int) -> str:
    return chr(65 + at) if at < 26 else column(at // 26 - 1) + chr(65 + at % 26)


def cell(at: int, number: int, value: Any, strings: list[str]) -> str:
    """A text is shared; a dict is the cell's own XML, {t, s, v, f, is}."""
    place = f'r="{column(at)}{number}"'
    if isinstance(value, dict):
        attributes = "".join(f' {name}="{value[name]}"' for name in "ts" if name in value)
        inner = "".join(
            f"<{name}>{value[name]}</{name}>" for name in ("f", "v", "is") if name in value
        )
        return f"<c {place}{attributes}>{inner}</c>"
    if isinstance(value, str):
        strings.append(value)
        return f'<c {place} t="s"><v>{len(strings) - 1}</v></c>'
    return f"<c {place}><v>{value}</v></c>"


def xlsx(sheets: dict[str, dict[int, list[Any]]], extra: dict[str, bytes] | None = None) -> bytes:
    """A book of sheets: the cells of each row by its number. None: no cell."""
    strings: list[str] = []
    files: dict[str, bytes] = {"[Content_Types].xml": b"<Types/>"}
    book = relations = ""
    for at, (title, rows) in enumerate(sheets.items(), start=1):
        text = "".join(
            f'<row r="{number}">'
            + "".join(
                cell(n, number, one, strings) for n, one in enumerate(cells) if one is not None
            )
            + "</row>"
            for number, cells in rows.items()
        )
        sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{text}</sheetData></worksheet>'
        files[f"xl/worksheets/sheet{at}.xml"] = sheet.encode()
        book += f'<sheet name="{escape(title)}" sheetId="{at}" r:id="rId{at}"/>'
        relations += (
            f'<Relationship Id="rId{at}" Type="{RELATIONS}/worksheet" '
            f'Target="worksheets/sheet{at}.xml"/>'
        )
    files["xl/workbook.xml"] = (
        f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets>{book}</sheets></workbook>'
    ).encode()
    files["xl/_rels/workbook.xml.rels"] = f"<Relationships>{relations}</Relationships>".encode()
    shared = "".join(f"<si><t>{escape(text)}</t></si>" for text in strings)
    files["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}">{shared}</sst>'.encode()
    return zipped(files | (extra or {}))
