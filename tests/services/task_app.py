"""A Celery app that tests and the workers that they start in processes of their own both make."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

import celery
from celery.signals import worker_ready
from sqlalchemy import create_engine, text

engine = create_engine("sqlite://")


def make_app(broker: str, queue: str, options: dict[str, Any]) -> celery.Celery:  # noqa: C901
    """Make the app for one broker; what belongs to a test is told by the name of its queue."""
    app = celery.Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options=options,
        task_default_queue=queue,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
        # What the worker says has to reach the test.
        worker_redirect_stdouts=False,
    )

    @app.task(name="shop.look", shared=False)
    def look(number: int) -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT :number"), {"number": number})

    @app.task(name="shop.look_at_all", shared=False)
    def look_at_all(count: int) -> None:
        with engine.connect() as connection:
            for number in range(count):
                connection.execute(text("SELECT :number"), {"number": number})

    @app.task(name="shop.fan_out", shared=False)
    def fan_out(count: int) -> None:
        for number in range(count):
            look.delay(number)

    @app.task(name="shop.crash", shared=False)
    def crash(_: str) -> None:
        raise ValueError("a secret")

    @app.task(name="shop.flaky", bind=True, max_retries=2, shared=False)
    def flaky(self: Any) -> None:
        raise self.retry(exc=ConnectionError("a secret"), countdown=0.01)

    @app.task(name="shop.die", shared=False)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="shop.meet", shared=False)
    def meet(port: int) -> None:
        """Last until somebody answers."""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1)

    @app.task(name="shop.call_eagerly", shared=False)
    def call_eagerly() -> None:
        look.apply((1,))

    @app.task(name="shop.step_aside", bind=True, shared=False)
    def step_aside(self: Any) -> None:
        raise self.replace(look.s(1))

    return app


def main() -> None:
    """Run a worker, as the command line would, and say when it is ready."""
    broker, queue, options, *arguments = sys.argv[1:]

    @worker_ready.connect(weak=False)
    def ready(**_: Any) -> None:
        sys.stdout.write("READY\n")
        sys.stdout.flush()

    app = make_app(broker, queue, json.loads(options))
    app.worker_main(["worker", "--loglevel=CRITICAL", "--without-gossip", "--without-mingle",
                     f"--hostname={queue}@%%h", *arguments])  # fmt: skip


if __name__ == "__main__":
    main()
