"""What a span keeps when very many statements run in it, to show that it is bounded.

Each line of the table is a process of its own. ``off`` is the same work without a recording:
what it shows is SQLAlchemy's and Python's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZES = (10_000, 100_000, 1_000_000)
KINDS = {
    "parameters": "one text, other parameters",
    "literals": "another literal in each text",
    "texts": "another name in each text",
}
# What a span of a million statements may add to the process.
GOAL_MIB = 32


def run(kind: str, size: int, recording: str) -> dict[str, float]:
    """Run one process and return what it says."""
    done = subprocess.run(  # noqa: S603 - our own worker
        [sys.executable, str(HERE / "memory_worker.py"), kind, str(size), recording],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    found: dict[str, float] = json.loads(done.stdout)
    if recording == "on" and found["queries"] != size:
        raise SystemExit(f"{size} statements were run and {found['queries']:.0f} counted")
    return found


def main() -> int:
    """Print the table; the exit status is 1 if memory is not bounded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    print(
        f"{'statements':<30} {'number':>9} {'recording':>9} {'peak growth':>12} "
        f"{'blocks kept':>11} {'tallies':>7} {'moments':>7} {'hashes':>6}"
    )
    rows = []
    for kind, label in KINDS.items():
        for size in arguments.sizes:
            for recording in ("off", "on"):
                found = run(kind, size, recording)
                rows.append({"kind": kind, "size": size, "recording": recording, **found})
                shown = [f"{found[k]:.0f}" if k in found else "" for k in _COUNTS]
                print(
                    f"{label:<30} {size:>9,} {recording:>9} {found['peak_kib'] / 1024:>8.1f} MiB "
                    f"{found['blocks']:>11,.0f} {shown[0]:>7} {shown[1]:>7} {shown[2]:>6}".rstrip(),
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    worst = max(row["peak_kib"] for row in rows if row["recording"] == "on") / 1024
    print(f"\nmost that a span added: {worst:.1f} MiB, goal {GOAL_MIB} MiB: ", end="")
    print("yes" if worst <= GOAL_MIB else "NO")
    return 0 if worst <= GOAL_MIB else 1


_COUNTS = ("tallies", "moments", "hashes")

if __name__ == "__main__":
    sys.exit(main())
