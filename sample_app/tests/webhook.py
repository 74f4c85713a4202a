"""A server that takes announcements, for tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """What has been announced, and what the next announcements are answered with."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    # Statuses of the next answers; 204 when there are no more.
    answers: list[int] = field(default_factory=list)
    # Seconds that it thinks before each answer.
    delay: float = 0.0
    # How many announcements are waiting for their answer, and the most that were.
    waiting: int = 0
    most_at_once: int = 0


@contextmanager
def running() -> Iterator[Webhook]:
    """Run the server, on a port of its own."""
    webhook = Webhook()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            webhook.received.append(json.loads(self.rfile.read(length)))
            with lock:
                webhook.waiting += 1
                webhook.most_at_once = max(webhook.most_at_once, webhook.waiting)
            time.sleep(webhook.delay)
            with lock:
                webhook.waiting -= 1
            self.send_response(webhook.answers.pop(0) if webhook.answers else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook.url = f"http://127.0.0.1:{server.server_port}/announcements"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
