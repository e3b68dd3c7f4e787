"""A job that costs next to nothing, for tests of everything around it: it imports no training library at all."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAVY = ("torch", "lightning", "mlflow", "mne")


class Nothing:
    """Stands where an experiment names its data and its model."""

    def __init__(self, root: str | None = None, num_workers: int = 0, lr: float = 0.0, encoder: Any = None) -> None:
        self.root = root


class Light:
    """Returns ``case`` as the score, unless it was asked to do something worse.

    Args:
        case: which of the tasks this is.
        raises: the cases that raise.
        waits: the cases that wait to be ended from outside.
        seconds: how long the others take.

    ``LIGHT_JOB_TROUBLE`` names a JSON file with more ``raises`` and ``waits``: trouble from outside, so that the same
    configuration can be run again without it.
    """

    def __init__(
        self, case: int = 0, raises: Sequence[int] = (), waits: Sequence[int] = (), seconds: float = 0.0
    ) -> None:
        self.case, self.raises, self.waits, self.seconds = case, raises, waits, seconds

    def __call__(self, cfg: Any, run: Any) -> float:
        heavy = [name for name in HEAVY if name in sys.modules]
        assert not heavy, f"a light job has imported {', '.join(heavy)}"
        # One file for each time that this task really ran.
        Path(run.path, f"ran-{uuid.uuid4().hex[:8]}").write_text(f"{os.getpid()} {os.environ.get('SLURM_JOB_ID')}\n")
        trouble = os.environ.get("LIGHT_JOB_TROUBLE")
        outside = json.loads(Path(trouble).read_text()) if trouble else {}
        if self.case in [*self.raises, *outside.get("raises", ())]:
            raise RuntimeError(f"case {self.case} was asked to raise")
        time.sleep(3600.0 if self.case in [*self.waits, *outside.get("waits", ())] else self.seconds)
        return float(self.case)
