"""Runs the tiny experiment under a launcher's signal handlers: ``launcher_stand_in.py FOLDER [key=value …]``.

At SIGUSR2 its handler notes what it finds on disk and leaves with code 3, as after putting the job back into the
queue; with ``refuse`` in ``$STAND_IN`` it raises instead, as when the job was put back too often. SIGTERM is shielded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import torch
from launch import tiny_config


class UsedUp(RuntimeError):
    """The launcher puts this job back no more."""


def main() -> None:
    root = Path(sys.argv[1])

    def requeue(number: int, frame: FrameType | None) -> None:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        last = root / "run" / "checkpoints" / "last.ckpt"
        position = torch.load(last, weights_only=True)["brainlab"] if last.exists() else {}
        status = json.loads((root / "run" / "status.json").read_text())
        found = {
            "state": status["state"],
            "exit": status["attempts"][-1]["exit"],
            "position": [position.get("epoch"), position.get("batch")],
        }
        with (root / "kept.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        if os.environ.get("STAND_IN") == "refuse":
            raise UsedUp("timed-out too many times")
        sys.exit(3)

    def shield(number: int, frame: FrameType | None) -> None:
        with (root / "shielded.txt").open("a") as file:
            file.write("SIGTERM\n")

    signal.signal(signal.SIGTERM, shield)
    signal.signal(signal.SIGUSR2, requeue)
    from brainlab.run.execute import execute

    print("score", execute(tiny_config(root, *sys.argv[2:]), folder=root / "run", overrides=sys.argv[2:]))


if __name__ == "__main__":
    main()
