"""Plain text for pre-training: rows of the form {"text": …}.

A .txt or .md file is one document. A .txt of more than DOCUMENT characters, such as a book, is cut
at blank lines into documents of about that size, a .md before a heading where there is one; what
has neither stays whole, up to the longest row allowed. A row's line is the one its text begins on.
(LLaMA-Factory joins all text and cuts it into blocks of tokens, so the borders are not lost there
either; its text loader takes each line for a document, which prose is not.)
"""

from app.datasets.containers import decoding
from app.datasets.containers.decoding import Readable
from app.datasets.containers.spool import Spool

DOCUMENT = 2**20


def spool(stream: Readable, codec: str, out: Spool, *, headings: bool) -> None:
    """Write the documents of one text file into `out`."""
    document = Document(out, codec)
    for number, text in decoding.lines(stream, codec, out.most):
        if text is None:
            document.end()
            out.too_large(number)
            continue
        border = text.startswith("#") if headings else not text.strip()
        if document.size > DOCUMENT and border:
            document.end()
        document.add(number, text)
    document.end()


class Document:
    """Lines that are not written yet."""

    def __init__(self, out: Spool, codec: str) -> None:
        self.out, self.codec = out, codec
        self.lines: list[str] = []
        self.begins = 1  # the line that the first of `lines` is
        self.size = 0  # characters
        self.over = False

    def add(self, number: int, text: str) -> None:
        if not self.size:
            if not text.strip():
                return
            self.begins = number
        self.size += len(text)
        if self.size > self.out.most:  # written as what it is: too large
            self.lines.clear()
            self.over = True
        elif not self.over:
            self.lines.append(text)

    def end(self) -> None:
        if self.over:
            self.out.too_large(self.begins)
        elif self.size:
            text = "".join(self.lines).strip("\n")
            self.out.row(self.begins, {"text": text}, self.undecoded)
        self.lines, self.size, self.over = [], 0, False

    def undecoded(self) -> dict[str, int | str]:
        for number, text in enumerate(self.lines, start=self.begins):
            if at := decoding.undecoded(text, self.codec):
                return {"at": number, "byte": at, "codec": self.codec.upper()}
        return {}
