"""How the service asks for background work."""

from __future__ import annotations

from collections.abc import Sequence

from sample_app.worker.high_priority import announce
from sample_app.worker.services import Services, lent
from sample_app.worker.tasks import process_many


class Tasks:
    """Publishes tasks; without a broker they have been run when a method returns."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def process(self, ids: Sequence[int]) -> None:
        """Have resources summarized: one message, however many they are."""
        with lent(self.services):
            process_many.delay(list(ids))

    def announce(self, resource_id: int) -> None:
        """Have the webhook told of a new resource, if there is one."""
        if self.services.settings.webhook_url is not None:
            with lent(self.services):
                announce.delay(resource_id)
