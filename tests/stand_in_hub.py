"""A server that speaks what Hugging Face and ModelScope speak, and serves plain files.

It can be told to break off, to be slow, to know no ranges, and to answer with any status.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "83ee97c66e841048bedc5c02c15ce2f3ed259feb"
OLDER = "f194f50981eaaa6019bbec5049a4c7e1fd294110"


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=dict)  # of the dataset lin/reviews
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository → its files
    plain: dict[str, bytes] = field(default_factory=dict)  # path → body, outside any repository
    headers: dict[str, str] = field(default_factory=dict)  # added to every file
    redirects: dict[str, str] = field(default_factory=dict)  # path → address
    statuses: dict[str, int] = field(default_factory=dict)  # path → status
    breaks: list[int] = field(default_factory=list)  # after how many bytes the next answers end
    pause: float = 0.0  # seconds after every 64 KiB
    ranges: bool = True
    sized: bool = True  # whether it says how long an answer is
    recursive: bool = True  # whether ModelScope's listing goes into folders by itself
    head: bool = True  # whether ModelScope says which commit is the newest
    page: int = 2  # entries of a page of a listing
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of each request whose path contains `part`."""
        return [headers for path, headers in self.seen if part in path]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}
            hub.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            if path in hub.statuses:
                self.answer(hub.statuses[path], b"{}")
            elif path in hub.redirects:
                self.answer(302, b"", location=hub.redirects[path])
            elif path in hub.plain:
                self.file(hub.plain[path])
            elif found := re.fullmatch(r"/api/datasets/lin/reviews/(revision|tree)/(\S+)", path):
                self.huggingface(found[1], found[2], query, hub.files)
            elif (
                found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/(revision|tree)/(\S+)", path)
            ) and found[1] in hub.models:
                self.huggingface(found[2], found[3], query, hub.models[found[1]])
            elif (found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/(\w+)/(.+)", path)) and found[
                1
            ] in hub.models:
                known = COMMIT if found[2] == COMMIT else ""
                self.blob(found[3], known, hub.models[found[1]])
            elif (
                found := re.fullmatch(r"/api/v1/models/(\w+/[\w.-]+)/repo(/files)?", path)
            ) and found[1] in hub.models:
                those = hub.models[found[1]]
                if found[2]:
                    self.modelscope(query, those)
                else:
                    self.blob(query["FilePath"], query["Revision"], those)
            elif found := re.fullmatch(r"/datasets/lin/reviews/resolve/(\w+)/(.+)", path):
                self.blob(found[2], COMMIT if found[1] == COMMIT else "", hub.files)
            elif path == "/api/v1/datasets/lin/reviews/repo/tree":
                self.modelscope(query, hub.files)
            elif path == "/api/v1/datasets/lin/reviews/repo":
                self.blob(query["FilePath"], query["Revision"], hub.files)
            elif path.startswith(("/api/datasets/", "/api/models/")):
                self.answer(401, b'{"error": "Invalid username or password."}')  # as the hub does
            else:
                self.answer(404, b'{"Code": 404, "Success": false}')

        def huggingface(
            self, what: str, revision: str, query: dict[str, str], files: dict[str, bytes]
        ) -> None:
            if revision not in ("main", COMMIT):
                self.answer(404, b'{"error": "Invalid rev id"}')
            elif what == "revision":
                self.json({"id": "lin/reviews", "sha": COMMIT, "private": False})
            else:
                at = int(query.get("cursor", "0"))
                entries = [{"type": "directory", "oid": "0", "size": 0, "path": "data"}]
                for name, body in sorted(files.items()):
                    entry = {"type": "file", "oid": "1", "size": len(body), "path": name}
                    if len(body) > 1000:
                        digest = hashlib.sha256(body).hexdigest()
                        entry["lfs"] = {"oid": digest, "size": len(body), "pointerSize": 130}
                    entries.append(entry)
                more = {}
                if at + hub.page < len(entries):
                    there = (
                        f"https://huggingface.co{self.path.split('?')[0]}?cursor={at + hub.page}"
                    )
                    more["link"] = f'<{there}>; rel="next"'
                self.json(entries[at : at + hub.page], **more)

        def modelscope(self, query: dict[str, str], files: dict[str, bytes]) -> None:
            if query["Revision"] not in ("master", COMMIT, OLDER):
                self.json({"Code": 200, "Success": True, "Data": {"Files": None}})
                return
            root, entries = query.get("Root", ""), {}
            for number, (name, body) in enumerate(sorted(files.items())):
                if root and not name.startswith(f"{root}/"):
                    continue
                inner = name.removeprefix(f"{root}/" if root else "")
                top = (f"{root}/" if root else "") + inner.split("/")[0]
                if "/" in inner:
                    entries[top] = {"Path": top, "Type": "tree", "Size": 0, "Revision": COMMIT}
                if "/" not in inner or hub.recursive:
                    entries[name] = {
                        "Path": name,
                        "Type": "blob",
                        "Size": len(body),
                        "Sha256": hashlib.sha256(body).hexdigest(),
                        "Revision": OLDER if number else COMMIT,
                        "CommittedDate": 1_700_000_000 - number,
                    }
            at = (int(query.get("PageNumber", "1")) - 1) * hub.page
            listed = list(entries.values())[at : at + hub.page]
            head = {"Id": "", "ShortId": COMMIT[:8]}
            data = {"Files": listed} | ({"LatestCommitter": head} if hub.head else {})
            self.json({"Code": 200, "Success": True, "Data": data})

        def blob(self, name: str, revision: str, files: dict[str, bytes]) -> None:
            if name not in files or revision not in (COMMIT, OLDER):
                self.answer(404, b"{}")
            else:
                self.file(files[name])

        def file(self, body: bytes) -> None:
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            more = {"etag": etag} | hub.headers
            if not hub.ranges:
                self.answer(200, body, **more)
                return
            more["accept-ranges"] = "bytes"
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
            if not wanted or self.headers.get("if-range", etag) != etag:
                self.answer(200, body, **more)
            elif int(wanted[1]) >= len(body):
                self.answer(416, b"", **more | {"content-range": f"bytes */{len(body)}"})
            else:
                span = f"bytes {wanted[1]}-{len(body) - 1}/{len(body)}"
                self.answer(206, body[int(wanted[1]) :], **more | {"content-range": span})

        def json(self, body: Any, **headers: str) -> None:
            self.answer(200, json.dumps(body).encode(), **headers)

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if hub.sized:
                self.send_header("content-length", str(len(body)))
            else:
                self.close_connection = True
            self.end_headers()
            data = len(body) > 1000
            most = hub.breaks.pop(0) if data and hub.breaks else len(body)
            try:
                for at in range(0, min(most, len(body)), 65536):
                    self.wfile.write(body[at : min(at + 65536, most)])
                    time.sleep(hub.pause)
            except OSError:
                self.close_connection = True
            if most < len(body):
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(2)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
