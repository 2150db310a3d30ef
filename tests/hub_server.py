"""A Hub on a loopback port, in memory, that the real clients can push to and load from."""

import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from hub_http import Failure, Handler, Reply, Request, json_reply
from hub_repo import GITATTRIBUTES, Repo
from hub_routes import ROUTES, HubRoutes


class HubServer(HubRoutes):
    """The server: `with HubServer() as server`, then `server.url` is the clients' endpoint.

    `token` may write as `user`, `read_token` only read as the same; `add_user` makes others. `requests` records all that
    came in, `outside` what clients that take the server for their proxy wanted from other hosts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.outside: list[str] = []
        self._errors: list[str] = []
        self._failures: list[Failure] = []
        self._lock = threading.RLock()
        self._closed = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("", (Handler,), {"answer": staticmethod(self._answer)}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # Another origin, as the Hub's storage is: clients must not send their token there
        self.storage = f"http://localhost:{self._http.server_port}/storage/{self._key}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        assert not self._errors, self._errors[0]

    def close(self) -> None:
        """Answer no more."""
        self._closed = True
        self._http.shutdown()
        self._http.server_close()

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """What a revision holds, without the `.gitattributes` that every repository starts with."""
        files = {path: file.content for path, file in self.repo(repo_id, repo_type).at(revision).files.items()}
        return {path: content for path, content in files.items() if content != GITATTRIBUTES}

    def routes(self) -> list[str | None]:
        """The routes of all requests in their order."""
        return [request.route for request in self.requests]

    def find(self, text: str | bytes) -> list[str]:
        """Where a text occurs in anything that was sent here, committed or not."""
        wanted = text.encode() if isinstance(text, str) else text
        return [
            f"{request.method} {request.url}: {place}"
            for request in list(self.requests)
            for place in dict.fromkeys(place for place, content in request.texts() if wanted in content)
        ]

    @contextmanager
    def fail(
        self,
        when: str | Callable[[Request], bool],
        status: int | None = 500,
        times: int | None = None,
        after: bool = False,
    ) -> Iterator[list[Request]]:
        """Let requests fail inside a `with` block.

        Args:
            when: The name of a route or a function of the request.
            status: What is answered; `None` drops the connection without an answer.
            times: Fail so many requests and then work again; all by default.
            after: Do what the request asks for before failing, so that only the answer is lost.

        Yields:
            The requests that failed, as they come.
        """
        failure = Failure(when, status, times, after)
        self._failures.append(failure)
        try:
            yield failure.failed
        finally:
            self._failures.remove(failure)

    def _answer(self, request: Request) -> Reply | None:
        viewer = self.url.replace("://", "://datasets-server.")  # where datasets asks for what is known of a data set
        if not request.url.startswith(("/", viewer)):
            self.outside.append(request.url)
            return Reply(403, b"not in this test", {"Connection": "close"})
        for route, method, pattern in ROUTES:
            match = re.fullmatch(pattern, urlsplit(request.url).path)
            if match and method == request.method.replace("HEAD", "GET"):
                request.route = route
                request.args = {name: value and unquote(value) for name, value in match.groupdict().items()}
                break
        with self._lock:
            self.requests.append(request)
            failure = next((one for one in self._failures if not one.after and one.hits(request)), None)
            reply = None if failure else self._respond(request)
            failure = failure or next((one for one in self._failures if one.after and one.hits(request)), None)
            if failure:
                reply = failure.status and json_reply({"error": "Injected failure"}, failure.status)
            request.status = reply and reply.status
        return None if self._closed else reply

    def _respond(self, request: Request) -> Reply | None:
        try:
            return self.respond(request)
        except Exception:
            self._errors.append(traceback.format_exc())  # a mistake of this server, not of its client
            return None
