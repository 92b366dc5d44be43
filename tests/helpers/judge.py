"""A judge on loopback: an HTTP server that talks as OpenAI's chat completions do, and says what a test tells it to."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Reply = tuple[int, str, str]  # HTTP status, text, finish_reason
DEAD: Reply = (0, "", "")  # the connection ends without an answer, as one to a server that was killed


@dataclass
class Judge:
    """A running judge: its name for --judge, and the prompts that it was asked, the first call apart."""

    name: str
    asked: list[str] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)


@contextlib.contextmanager
def judge(
    monkeypatch: pytest.MonkeyPatch, reply: Callable[[str, int], Reply], service: str = "mock", model: str = "judge"
) -> Iterator[Judge]:
    """Serve `reply(prompt, number of the call)` under `openai-api/SERVICE/MODEL` in the `with` body."""
    running = Judge(f"openai-api/{service}/{model}")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = body["messages"][-1]["content"]
            prompt = content if isinstance(content, str) else content[0]["text"]
            if prompt == "Answer with the word OK.":  # asked once, before the first task
                status, text, finish = 200, "OK", "stop"
            else:
                with lock:
                    running.asked.append(prompt)
                    running.bodies.append(body)
                    number = len(running.asked)
                status, text, finish = reply(prompt, number)
            if not status:
                self.close_connection = True
                return
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": finish, "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage}
            sent = {**answer, "choices": [choice]} if status == 200 else {"error": {"message": text}}
            data = json.dumps(sent).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(f"{service.upper()}_API_KEY", "sk-very-secret")
        monkeypatch.setenv(f"{service.upper()}_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
