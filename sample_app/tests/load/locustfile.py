"""The users of the load test: the guide's, with what it meant.

Locust reads this file in processes of its own; nobody else may import it, as Locust patches what it
finds in a process. ``locust -f sample_app/tests/load/locustfile.py`` runs it by hand.
"""

from __future__ import annotations

import os
from itertools import count

from locust import HttpUser, between, constant, task

from sample_app.core.traps import Traps

URL = "/api/resources"
_TRAPS = Traps.parse(os.environ.get("SAMPLE_APP_TRAPS", ""))
_numbers = count(1)


class APIUser(HttpUser):
    """Lists, creates and updates, as the guide has it.

    The guide's user asks to update ``self.resource_id``, which it has never set: each update raises
    before anything is sent, which no number of requests shows. Trap: locust_without_id.
    """

    # The guide's 1 to 3 seconds would make few requests in the seconds of a test.
    wait_time = between(0.05, 0.15)
    resource_id: int

    def on_start(self) -> None:
        """Have something to update."""
        self.create_resource()

    @task(3)
    def get_resources(self) -> None:
        """Ask for a page."""
        self.client.get(URL)

    @task(1)
    def create_resource(self) -> None:
        """Create a resource, and keep what it is called."""
        # Each has a name of its own, so that updates are not lost among equals.
        content = {"name": f"Test Resource {next(_numbers)}", "owner_id": 1}
        response = self.client.post(URL, json=content)
        # What failed is counted already.
        if response.ok and not _TRAPS.enabled("locust_without_id"):
            self.resource_id = response.json()["id"]

    @task(2)
    def update_resource(self) -> None:
        """Update what was created last."""
        url = f"{URL}/{self.resource_id}"
        self.client.put(url, json={"name": f"Updated Resource {next(_numbers)}"})


# By a new connection each time, as those come who ask once: one that is kept open stays with the
# process that has accepted it.
_ONCE = {"Connection": "close"}


class Visitor(HttpUser):
    """Asks for a resource now and then."""

    wait_time = between(0.02, 0.08)

    @task
    def get_resource(self) -> None:
        """Ask for a resource."""
        self.client.get(f"{URL}/1", headers=_ONCE)


class Reader(HttpUser):
    """Walks through all resources, which nobody has cached, without a pause."""

    wait_time = constant(0)

    @task
    def walk(self) -> None:
        """Ask for what comes next."""
        after = next(_numbers) % 180 + 1
        self.client.get(f"{URL}/after?after={after}", headers=_ONCE)


class Writer(HttpUser):
    """Creates one resource after the other.

    Without the pause, a worker that has just answered is awake and takes the next connection, too:
    a port that workers share balances neither work nor waiting.
    """

    wait_time = between(0.02, 0.08)

    @task
    def create_resource(self) -> None:
        """Create a resource."""
        content = {"name": f"Written Resource {next(_numbers)}", "owner_id": 1}
        self.client.post(URL, json=content, headers=_ONCE)
