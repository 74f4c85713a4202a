"""Summaries of resources: as many statements for a hundred as for one."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from sample_app.crud.resource import LOAD_RELATED_ITEMS
from sample_app.models import Resource, ResourceSummary, utcnow


def summarize(db: Session, ids: Collection[int]) -> int:
    """Summarize what is there of these resources; return how many that are.

    What has been summarized before is summarized anew: a task may be run twice. Committing is up
    to the caller.
    """
    resources = db.scalars(
        select(Resource).where(Resource.id.in_(ids)).options(LOAD_RELATED_ITEMS)
    ).all()
    known = {
        summary.resource_id: summary
        for summary in db.scalars(
            select(ResourceSummary).where(ResourceSummary.resource_id.in_(ids))
        )
    }
    now = utcnow()
    for resource in resources:
        summary = known.get(resource.id) or ResourceSummary(resource_id=resource.id)
        summary.words = len(f"{resource.name} {resource.description or ''}".split())
        summary.items = len(resource.related_items)
        summary.processed_at = now
        db.add(summary)
    db.flush()
    return len(resources)
