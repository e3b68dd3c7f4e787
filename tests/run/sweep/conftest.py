"""Jobs that cost nothing: a configuration of ours, and a function that does what the first tag says."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import open_dict, read_write

from brainlab.run.sweep.jobs import SweepJob

PARTS = """
import json, os, signal, sys, time
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from brainlab.config import schema

schema.register()


def entry(cfg):
    word, folder = cfg.tags[0], Path(HydraConfig.get().runtime.output_dir)
    seen = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    seen.update(pid=os.getpid(), argv=sys.argv, cwd=os.getcwd(), start=time.time(), root=cfg.paths.root)
    seen.update(num=HydraConfig.get().job.num, id=HydraConfig.get().job.id)
    (folder / "seen.json").write_text(json.dumps(seen))
    if word == "raise":
        raise ValueError("asked to fail")
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(word) if word != "score" else 0)
    (folder / "end.json").write_text(str(time.time()))
    return float(cfg.seed)
"""


@pytest.fixture(scope="session")
def _config() -> Any:
    from brainlab.config import schema
    from brainlab.config.compose import Composer, forget

    schema.register()
    config = Composer().compose([], multirun=True)
    forget()
    return config


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], float]]:
    """What the jobs run, importable here and in the processes that tests start."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "sweep_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path / "lab"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lab"))
    yield importlib.import_module("sweep_parts").entry
    sys.modules.pop("sweep_parts", None)


@pytest.fixture
def make_job(_config: Any, tmp_path: Path) -> Callable[..., SweepJob]:
    """``make_job(number, word)``: word is score, raise, kill, or how many seconds to take."""

    def make(number: int, word: str = "score", folder: Path = tmp_path / "sweep", **values: Any) -> SweepJob:
        config = copy.deepcopy(_config)
        folder.mkdir(exist_ok=True)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(folder)
            config.tags, config.seed = [word], 10 + number
            for key, value in values.items():
                config[key] = value
        return SweepJob(number, (f"seed={10 + number}",), config)

    return make
