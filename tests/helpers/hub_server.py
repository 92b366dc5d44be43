"""A small server on the loopback that speaks as much of the Hub's protocol as downloading a repository takes."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[str]:
    """Serve folders as repositories, `{"models/org/name": folder, "datasets/org/name": ...}`; yields the endpoint."""
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repositories: Mapping[str, Path]

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").removeprefix("api/")
        path = path if path.startswith(("datasets/", "models/")) else f"models/{path}"
        name = next((name for name in self.repositories if f"{path}/".startswith(f"{name}/")), None)
        if name is None:
            self._answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = {file.name: file for file in self.repositories[name].iterdir() if file.is_file()}
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

    do_HEAD = do_GET

    def _file(self, file: Path | None) -> None:
        if file is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        self._answer(data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _answer(self, body: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
