"""What a run costs besides training: ``brainlab`` beside a plain Lightning script that trains the same.

Both sides build the same data module, task, network and optimiser, train the same batches, validate, keep the last and
the best checkpoint, and track in MLflow's sqlite. Two spans are measured: from the start of the process to the first
batch, and from the end of the last batch to the end of the process. Run it on an otherwise idle machine::

    python benchmarks/run_overhead.py [--repeats 9] [--evaluate]

The sides take turns. The ratio is brainlab's two spans over the plain script's, within a turn; the median over the
turns is printed, in wall-clock and in processor seconds. The same script under a bare ``@hydra.main`` stands beside
it. With ``--evaluate`` all sides also judge their best checkpoint by the same retrieval protocol. The exit status is 1
where the target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = 1.15
BATCHES = 2
BATCH_SIZE = 8
SIDES = ("plain Lightning", "bare @hydra.main", "brainlab")

# What every side trains; the plain script says the same in Python, brainlab in its configuration.
HYDRA_CONFIG = f"""
seed: 0
out: ???
cache: ???
evaluate: false
data:
  _target_: brainlab.data.things_nsd.ThingsNsdData
  cache_dir: ${{cache}}
  size: tiny
  batch_size: {BATCH_SIZE}
model:
  _target_: brainlab.tasks.alignment.Alignment
  encoder: {{_target_: brainlab.models.cbramod.CBraMod}}
  head: {{_target_: brainlab.models.pooling_heads.FlattenHead, _partial_: true}}
  lr: 3.0e-4
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  limit_train_batches: {BATCHES}
  limit_val_batches: {BATCHES}
  gradient_clip_val: 1.0
  log_every_n_steps: 10
  num_sanity_val_steps: 0
  enable_model_summary: false
  enable_progress_bar: false
  use_distributed_sampler: false
hydra:
  run: {{dir: "${{out}}"}}
"""


@dataclass(frozen=True)
class Spans:
    """Seconds of one run, each as (wall, processor)."""

    start: tuple[float, float]
    training: tuple[float, float]
    end: tuple[float, float]

    def overhead(self, clock: int) -> float:
        return self.start[clock] + self.end[clock]


# ---- the sides ------------------------------------------------------------------------------------------------------


def plain(out: Path, cache: Path, evaluate: bool) -> None:
    """A training script as one writes it without a framework."""
    import functools

    import lightning.pytorch as pl

    from brainlab.data.things_nsd import ThingsNsdData
    from brainlab.models.cbramod import CBraMod
    from brainlab.models.pooling_heads import FlattenHead
    from brainlab.tasks.alignment import Alignment

    pl.seed_everything(0, workers=True)
    data = ThingsNsdData(cache_dir=str(cache), size="tiny", batch_size=BATCH_SIZE)
    data.prepare_data()
    data.setup("fit")
    sizes = {key: data.shapes[key] for key in ("n_channels", "n_patches", "target_dim")}
    task = Alignment(**sizes, encoder=CBraMod(), head=functools.partial(FlattenHead), lr=3e-4)
    options = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "limit_train_batches": BATCHES,
        "limit_val_batches": BATCHES, "gradient_clip_val": 1.0, "log_every_n_steps": 10, "num_sanity_val_steps": 0,
        "enable_model_summary": False, "enable_progress_bar": False, "use_distributed_sampler": False,
    }  # fmt: skip
    fit(options, data, task, out, evaluate)


def bare_hydra(out: Path, cache: Path, evaluate: bool) -> None:
    """The same script under ``@hydra.main``, its objects built by Hydra."""
    import hydra

    folder = out.parent / f"{out.name}-conf"
    folder.mkdir()
    (folder / "config.yaml").write_text(HYDRA_CONFIG)
    sys.argv = [sys.argv[0], f"out={out}", f"cache={cache}", f"evaluate={evaluate}"]

    @hydra.main(version_base="1.3", config_path=str(folder), config_name="config")
    def main(cfg: Any) -> None:
        import lightning.pytorch as pl
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        pl.seed_everything(cfg.seed, workers=True)
        data = instantiate(cfg.data)
        data.prepare_data()
        data.setup("fit")
        sizes = {key: data.shapes[key] for key in ("n_channels", "n_patches", "target_dim")}
        task = instantiate(cfg.model, **sizes)
        fit(OmegaConf.to_container(cfg.trainer), data, task, Path(cfg.out), cfg.evaluate)

    main()


def fit(options: Any, data: Any, task: Any, out: Path, evaluate: bool) -> None:
    """Train with the usual checkpoints and logger, and judge the best checkpoint if asked to."""
    import lightning.pytorch as pl
    from batch_clock import BatchClock
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import MLFlowLogger

    best = ModelCheckpoint(dirpath=out / "checkpoints", monitor="val/nll", mode="min", save_last=True)
    logger = MLFlowLogger("overhead", tracking_uri=f"sqlite:///{out.parent / 'mlflow.db'}",
                          artifact_location=(out.parent / "mlruns").as_uri())  # fmt: skip
    callbacks = [best, EarlyStopping("val/nll", patience=2), BatchClock(str(out.parent / f"{out.name}.json"))]
    trainer = pl.Trainer(**options, default_root_dir=out, callbacks=callbacks, logger=logger)
    trainer.fit(task, datamodule=data)
    if evaluate:
        import torch

        from brainlab.evaluation.retrieval import Retrieval

        task.load_state_dict(torch.load(best.best_model_path, weights_only=False)["state_dict"])
        data.setup("test")
        outcome = Retrieval()(task.eval(), data, out=out)
        logger.log_metrics({f"test/{metric.name}": metric.value for metric in outcome.metrics}, step=BATCHES)
    print("best val/nll:", float(best.best_model_score))


def command(side: str, out: Path, cache: Path, evaluate: bool) -> list[str]:
    """The words that start one run of a side."""
    if side != "brainlab":
        role = "plain" if side == SIDES[0] else "hydra"
        script = [sys.executable, str(HERE / "run_overhead.py"), "--as", role]
        return [*script, "--out", str(out), "--cache", str(cache), *(["--evaluate"] if evaluate else [])]
    program = Path(sys.executable).parent / "brainlab"
    return [
        *([str(program)] if program.exists() else [sys.executable, "-m", "brainlab"]),
        "experiment=eeg_fmri_align", "trainer=debug", f"data.batch_size={BATCH_SIZE}",
        *([] if evaluate else ["evaluation=none"]), f"trainer.limit_train_batches={BATCHES}",
        f"trainer.limit_val_batches={BATCHES}", f"hydra.run.dir={out}", f"paths.root={out.parent}",
        f"paths.cache={cache}", "+callbacks.clock._target_=batch_clock.BatchClock",
        f"+callbacks.clock.file={out.parent / (out.name + '.json')}",
        "security.allowed_targets=[brainlab,lightning.pytorch.Trainer,lightning.pytorch.callbacks,batch_clock]",
    ]  # fmt: skip


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(words: Sequence[str], marks: Path, folder: Path) -> Spans:
    """Run one process and read its clock.

    Raises:
        RuntimeError: it failed.
    """
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("BRAINLAB_", "MLFLOW_"))}
    variables |= {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (folder / "output.txt").open("w") as output:
        start = time.time()
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        end = time.time()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not marks.exists():
        told = (folder / "output.txt").read_text()
        raise RuntimeError(f"{' '.join(words)}\nended with {process.returncode}:\n{told}")
    first, last = (json.loads(marks.read_text())[key] for key in ("first", "last"))
    cpu = used.ru_utime + used.ru_stime
    training = (last[0] - first[0], last[1] - first[1])
    return Spans((first[0] - start, first[1]), training, (end - last[0], cpu - last[1]))


def run_in_turns(repeats: int, evaluate: bool, work: Path, sides: Sequence[str]) -> dict[str, list[Spans]]:
    """Measure each side ``repeats`` times, after one run that fills caches and creates databases."""
    cache = work / "cache"
    found: dict[str, list[Spans]] = {side: [] for side in sides}
    for turn in range(-1, repeats):
        order = sides if turn % 2 else tuple(reversed(sides))
        for side in order:
            folder = work / side.split()[-1].strip("@")
            folder.mkdir(exist_ok=True)
            out = folder / f"run{turn}"
            spans = measure(command(side, out, cache, evaluate), folder / f"{out.name}.json", folder)
            shutil.rmtree(out)
            if turn >= 0:
                found[side].append(spans)
                print(
                    f"  turn {turn + 1:2d}  {side:<17s} start {spans.start[0]:6.2f} s, end {spans.end[0]:5.2f} s wall; "
                    f"{spans.start[1]:6.2f} s and {spans.end[1]:5.2f} s CPU", flush=True,
                )  # fmt: skip
    return found


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def table(found: dict[str, list[Spans]]) -> tuple[float, float]:
    """Print medians and ratios; returns brainlab's, in wall-clock and in processor time."""
    base = found[SIDES[0]]
    print(f"\nmedian of {len(base)} turns {'start → first batch':>30s} {'last batch → exit':>22s} {'together':>20s}")
    print(f"{'':27s}{'wall s':>10s} {'CPU s':>10s} {'wall s':>12s} {'CPU s':>8s} {'wall s':>11s} {'CPU s':>8s}   ratio")
    ratios = float("nan"), float("nan")
    for side, turns in found.items():
        wall, cpu = (
            median([a.overhead(clock) / b.overhead(clock) for a, b in zip(turns, base, strict=True)])
            for clock in (0, 1)
        )
        cells = [median([turn.start[clock] for turn in turns]) for clock in (0, 1)]
        cells += [median([turn.end[clock] for turn in turns]) for clock in (0, 1)]
        cells += [median([turn.overhead(clock) for turn in turns]) for clock in (0, 1)]
        print(
            f"{side:17s} {cells[0]:20.2f} {cells[1]:10.2f} {cells[2]:12.2f} {cells[3]:8.2f} {cells[4]:11.2f}"
            f" {cells[5]:8.2f}   {wall:.2f}x wall, {cpu:.2f}x CPU"
        )
        if side == "brainlab":
            ratios = wall, cpu
    return ratios


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--evaluate", action="store_true", help="all sides judge their best checkpoint as well")
    parser.add_argument("--without-hydra", action="store_true", help="leave the script under bare @hydra.main out")
    parser.add_argument("--as", dest="role", choices=("plain", "hydra"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        side = plain if arguments.role == "plain" else bare_hydra
        side(arguments.out, arguments.cache, arguments.evaluate)
        return 0
    from side_by_side import environment

    print(environment("torch", "lightning", "mlflow", "hydra-core"))
    print(f"CBraMod on simulated pairs, {BATCHES} + {BATCHES} batches of {BATCH_SIZE}, MLflow in sqlite", end="")
    print(", the same evaluation on all sides" if arguments.evaluate else ", no evaluation")
    sides = tuple(side for side in SIDES if not (arguments.without_hydra and side == SIDES[1]))
    with tempfile.TemporaryDirectory(prefix="brainlab-overhead-") as work:
        found = run_in_turns(arguments.repeats, arguments.evaluate, Path(work), sides)
    wall, cpu = table(found)
    verdict = "reached" if wall <= TARGET else "MISSED"
    print(f"brainlab / plain Lightning: {wall:.2f}x wall, {cpu:.2f}x CPU; target {TARGET:g}x wall {verdict}")
    return 0 if wall <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
