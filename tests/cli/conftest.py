"""A user's folder with a small package, and the command line run in a process of its own or in this one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

FILES = {
    "lab/minilab/__init__.py": "",
    "lab/minilab/parts.py": '''
class Data:
    def __init__(self, root=None, size="default", batch_size=8, num_workers=0):
        self.root = root


class Model:
    def __init__(self, lr: float, width: int = 3, encoder=None):
        self.lr = lr


class Job:
    """Returns the learning rate as its score."""

    def __init__(self, fails_at=None, marker=None):
        self.fails_at, self.marker = fails_at, marker

    def __call__(self, cfg, run):
        if cfg.model.lr == self.fails_at:
            raise ValueError("asked to fail")
        return float(cfg.model.lr)
''',
    "mine/data/tiny.yaml": "_target_: minilab.parts.Data\nroot: null\nsize: default\nbatch_size: 8\nnum_workers: 0\n",
    "mine/model/line.yaml": "_target_: minilab.parts.Model\nlr: 0.001\n",
    "mine/job/score.yaml": "_target_: minilab.parts.Job\nfails_at: null\n",
    "mine/experiment/mine.yaml": """# @package _global_
defaults:
  - override /data: tiny
  - override /model: line
  - override /job: score
experiment_name: mine
security:
  allowed_targets: [brainlab, minilab, torch.nn, lightning.pytorch.Trainer]
trainer:
  max_epochs: 50
  limit_train_batches: 100
""",
}


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Workplace:
    """An empty working directory beside a user's configuration folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.cwd = root, root / "work"
        self.cwd.mkdir()
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("BRAINLAB_")},
            "PYTHONPATH": str(root / "lab"),
            "HOME": str(root / "home"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str, mine: bool = True, code: str | None = None, **environment: str) -> Ended:
        """``brainlab WORDS`` in a process of its own; with ``mine`` the user's folder and experiment are named."""
        start = ["-c", code] if code is not None else ["-m", "brainlab"]
        own = ["--config-dir", str(self.root / "mine"), "experiment=mine"] if mine else []
        done = subprocess.run(
            [sys.executable, *start, *own, *words],
            cwd=self.cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def written(self) -> list[str]:
        """Everything below the working directory."""
        return sorted(str(file.relative_to(self.cwd)) for file in self.cwd.rglob("*"))


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Workplace(tmp_path)


@pytest.fixture
def brainlab(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The command line in this process, which saves the start of an interpreter for each of many words."""
    from brainlab.config import search_path

    monkeypatch.chdir(workplace.cwd)
    monkeypatch.syspath_prepend(str(workplace.root / "lab"))
    for name in [name for name in os.environ if name.startswith("BRAINLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(search_path, "_current", search_path.SearchPath())

    def run(*words: str, mine: bool = True) -> Ended:
        from brainlab.cli import main

        own = ["--config-dir", str(workplace.root / "mine"), "experiment=mine"] if mine else []
        monkeypatch.setattr(sys, "argv", ["brainlab", *own, *words])
        root = logging.getLogger()
        before, level = list(root.handlers), root.level
        with pytest.raises(SystemExit) as ended:
            main()
        # Hydra set up logging for this process; its handlers hold on to captured streams.
        root.handlers[:] = before
        root.setLevel(level)
        shown = capsys.readouterr()
        return Ended(int(ended.value.code or 0), shown.out, shown.err)

    return run
