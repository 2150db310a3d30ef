"""Requests and replies of the Hub in `hub_server`, and what reads and writes them."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(eq=False)
class Request:
    """A request that came in; `status` is what was answered, `None` for a dropped connection."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    route: str | None = None
    args: dict[str, str | None] = field(default_factory=dict)
    status: int | None = None

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.url).query)

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """All that the request says, decoded, but for its `Authorization`, each with the place where it stands."""
        yield "url", unquote(self.url).encode()
        for name, value in self.headers.items():
            if name != "authorization":
                yield name, value.encode()
        yield "body", self.body
        if "json" in self.headers.get("content-type", ""):
            for line in self.lines:
                yield "body", json.dumps(line, ensure_ascii=False).encode()
                for value in [*line.get("files", []), line.get("value", {})]:
                    yield value.get("path", ""), base64.b64decode(value.get("content") or value.get("sample") or "")


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Failure:
    """Requests that are to fail, and those that did."""

    when: str | Callable[[Request], bool]
    status: int | None
    times: int | None
    after: bool
    failed: list[Request] = field(default_factory=list)

    def hits(self, request: Request) -> bool:
        wanted = request.route == self.when if isinstance(self.when, str) else self.when(request)
        if not wanted or len(self.failed) == self.times:
            return False
        self.failed.append(request)
        return True


def json_reply(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def file_reply(content: bytes, asked: str | None, headers: dict[str, str]) -> Reply:
    """A file, or the range of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked or "")
    if not match or match.groups() == ("", ""):
        return Reply(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start > end:
        return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    return Reply(206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"})


class Handler(BaseHTTPRequestHandler):
    answer: Callable[[Request], Reply | None]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.answer(Request(self.command, self.path, headers, self._body()))
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_: object) -> None:
        pass
