"""``run.json`` as text, and what may stand in a file at all."""

from __future__ import annotations

import json
from typing import Any

from pytest_perfguard.model import Run


def public(run: Run) -> Run:
    """Return the run as it may stand in files: parameters that the user asked to see left out."""
    return Run.from_dict(_without_samples(run.to_dict()))


def to_json(run: Run) -> str:
    """Return the text of ``run.json``, which ``read_run`` reads."""
    return json.dumps(_without_samples(run.to_dict()), indent=1, ensure_ascii=False) + "\n"


def _without_samples(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: [] if key == "samples" else _without_samples(item) for key, item in data.items()
        }
    if isinstance(data, list):
        return [_without_samples(item) for item in data]
    return data
