"""``report.html``: one file that shows what a run found and how to repeat it."""

from __future__ import annotations

from typing import Any

from brainlab.run.context import Run


def write_report(run: Run, results: dict[str, Any], curves: dict[str, list[tuple[int, float]]]) -> None:
    """Write the report."""
