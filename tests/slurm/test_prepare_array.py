"""Preparation on a cluster: one task per person, one cache that all tasks share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_an_array_prepares_everyone_into_one_cache_and_is_collected(
    cluster: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    words = ("job=prepare", "data.subject=range(1,5)", "data.size=tiny", f"paths.cache={cache}", "logger=none")
    sweep = start(*words, base=())
    ended = sweep.wait()
    assert ended.code == 0, ended.out + ended.err
    assert sweep.states() == dict.fromkeys(range(4), "COMPLETED")
    assert [row["data.subject"] for row in sweep.rows().values()] == ["1", "2", "3", "4"]

    def built(kind: str) -> int:
        return len([entry for entry in (cache / kind).iterdir() if not entry.name.startswith(".")])

    assert built("image_pairs_simulated") == built("picture_pairs") == built("picture_split") == 1
    assert built("nsd_betas") == built("nsd_targets") == 2
    assert built("things_epochs") == built("alignment_records") == 4

    again = start(*words, base=()).wait()
    assert again.code == 0, again.out + again.err
    assert "completed or still running; they are not started again" in again.out

    collect = [sys.executable, "-m", "brainlab", "job=collect", f"runs={tmp_path}/sw*", "logger=none"]
    done = subprocess.run(
        collect, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 completed, 0 failed, 0 lost" in done.stdout
