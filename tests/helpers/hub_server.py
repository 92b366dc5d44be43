"""A small server on the loopback that speaks as much of the Hub's protocol as downloading a repository takes."""

import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(
    repositories: Mapping[str, Path],
    answers: int | None = None,
    half: str | None = None,
    shut: bool = False,
    pause: float = 0,
) -> Iterator[str]:
    """Serve folders as repositories, `{"models/org/name": folder, "datasets/org/name": ...}`; yields the endpoint.

    After so many `answers`, or in the middle of the file `half`, the server falls silent: it takes connections and says
    nothing. If it is `shut`, it closes them instead, in the middle of a file once. Before each tenth of a file it makes
    a `pause`, in seconds.
    """
    state = _State(repositories, answers, half, shut, pause)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        state.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def silent() -> contextlib.AbstractContextManager[str]:
    """A server that takes connections and says nothing."""
    return serve({}, answers=0)


@dataclass
class _State:
    """What a server has, and what it has said."""

    repositories: Mapping[str, Path]
    answers: int | None
    half: str | None
    shut: bool
    pause: float
    asked: Iterator[int] = field(default_factory=itertools.count)
    silent: bool = False
    over: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    state: _State

    def do_GET(self) -> None:
        number = next(self.state.asked)
        self.state.silent |= self.state.answers is not None and number >= self.state.answers
        if self.state.silent:
            self._fall_silent()
        else:
            self._reply()

    do_HEAD = do_GET

    def _fall_silent(self) -> None:
        self.state.silent = True
        if not self.state.shut:
            self.state.over.wait()
        self.close_connection = True

    def _reply(self) -> None:
        path = self.path.split("?")[0].strip("/").removeprefix("api/")
        path = path if path.startswith(("datasets/", "models/")) else f"models/{path}"
        name = next((name for name in self.state.repositories if f"{path}/".startswith(f"{name}/")), None)
        if name is None:
            self._answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = {file.name: file for file in self.state.repositories[name].iterdir() if file.is_file()}
        rest = path.removeprefix(name).strip("/").split("/")
        if rest[0] == "resolve":
            self._file(files.get(rest[-1]))
        elif rest[0] == "tree":
            entries = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": COMMIT} for n, f in files.items()]
            self._answer(json.dumps(entries if len(rest) == 2 else []).encode())
        else:
            siblings = [{"rfilename": file} for file in files]
            info = {"id": name.partition("/")[2], "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
            self._answer(json.dumps(info).encode())

    def _file(self, file: Path | None) -> None:
        if file is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        end = len(data) // 2 if file.name == self.state.half and self.command == "GET" else len(data)
        self._answer(data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, end, self.state.pause)
        if end < len(data) and self.state.shut:
            self.state.half, self.close_connection = None, True
        elif end < len(data):
            self._fall_silent()

    def _answer(
        self,
        body: bytes,
        code: int = 200,
        headers: Mapping[str, str] | None = None,
        end: int | None = None,
        pause: float = 0,
    ) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            sent = body[:end]
            step = len(sent) // 10 + 1 if pause else max(len(sent), 1)
            for start in range(0, len(sent), step):
                time.sleep(pause)
                self.wfile.write(sent[start : start + step])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
