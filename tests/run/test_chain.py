"""Stages run in order, are reused when they are finished, and continue when they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from brainlab.errors import ConfigError
from brainlab.run.chain import Chain
from brainlab.run.stages import outputs, register_resolver

_HERE = Path(__file__).parent


def _command(root: Path, run: str, lr: float, reference: str = "first.checkpoint") -> list[str]:
    trace = f"'model.trace={root / 'trace'}'"
    return [
        sys.executable, "-m", "brainlab", "--config-dir", str(_HERE / "conf"), "experiment=tiny", "logger=none",
        f"paths.root={root}", f"paths.cache={root / 'cache'}", f"hydra.run.dir={root / run}", "job=chain",
        f"+job.stages.first=['experiment=tiny',{trace}]",
        f"+job.stages.second=['experiment=tiny','model.lr={lr}','model.sleep_s=0.05',{trace},"
        f"'model.weights=${{stage:{reference}}}']",
    ]  # fmt: skip


def _start(root: Path, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE)}
    with (root / "out.txt").open("a") as stream:
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def _batches(root: Path) -> int:
    return (root / "trace").read_bytes().count(b"\n") if (root / "trace").exists() else 0


def test_a_chain_survives_a_kill_and_shares_its_stages(tmp_path: Path) -> None:
    process = _start(tmp_path, _command(tmp_path, "one", 0.02))
    while process.poll() is None and _batches(tmp_path) < 38:  # 30 batches are the first stage
        time.sleep(0.005)
    assert process.poll() is None, (tmp_path / "out.txt").read_text()[-2000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = _batches(tmp_path)
    assert _start(tmp_path, _command(tmp_path, "one", 0.02)).wait() == 0, (tmp_path / "out.txt").read_text()[-2000:]
    assert (tmp_path / "one" / "stages" / "first" / "reused.json").exists()
    assert "resumed at epoch 0, batch" in (tmp_path / "one" / "stages" / "second" / "brainlab.log").read_text()
    assert _batches(tmp_path) - before < 30
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert results["stages"]["first"]["reused"] is True
    assert results["stages"]["second"]["reused"] is False
    assert results["data_source"] == "synthetic"
    assert Path(results["best"]["checkpoint"]).is_file()

    before = _batches(tmp_path)
    assert _start(tmp_path, _command(tmp_path, "two", 0.03)).wait() == 0
    assert _batches(tmp_path) - before == 30  # only the second stage, whose lr is another one
    resolved = OmegaConf.load(tmp_path / "two" / "resolved.yaml")
    raw = OmegaConf.to_container(resolved.job.stages.second, resolve=False)
    assert "model.weights=${stage:first.checkpoint}" in raw


def test_every_stage_is_checked_before_the_first_one_starts(tmp_path: Path) -> None:
    for reference, meant in (("frist.checkpoint", "first"), ("first.weights", "first.checkpoint")):
        process = _start(tmp_path, _command(tmp_path, "bad", 0.02, reference))
        assert process.wait() == 2
        text = (tmp_path / "out.txt").read_text()
        assert reference in text
        assert meant in text
        assert "Traceback" not in text
    assert _batches(tmp_path) == 0


def test_a_reference_stands_for_itself_until_its_stage_has_run() -> None:
    register_resolver()
    cfg = OmegaConf.create({"weights": "${stage:first.checkpoint}"})
    assert cfg.weights == "${stage:first.checkpoint}"
    with outputs({"first": {"checkpoint": "/x.ckpt"}}):
        assert cfg.weights == "/x.ckpt"


def test_a_chain_without_stages_or_with_odd_ones_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one stage"):
        Chain({})
    with pytest.raises(ConfigError, match=r"job\.stages\.a"):
        Chain({"a": "experiment=tiny"})
    assert Chain({"a": {"experiment": "tiny", "seed": 1}}).stages["a"].words == ["experiment=tiny", "seed=1"]


def test_weights_of_an_earlier_stage_need_not_exist_yet(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "brainlab", "--config-dir", str(_HERE / "conf"), "experiment=tiny", "validate=true",
        f"paths.root={tmp_path}", "job=chain", "+job.stages.first=['experiment=tiny']",
        "+job.stages.second=['experiment=tiny','weights.encoder=${stage:first.checkpoint}']",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_stage_that_starts_from_other_weights_is_another_stage(tmp_path: Path) -> None:
    reused, start = [], tmp_path / "start.pt"
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 1))
    for bias in (0.0, 1.0, 0.0):
        torch.nn.init.constant_(net[3].bias, bias)
        torch.save(net.state_dict(), start)
        command = [
            sys.executable, "-m", "brainlab", "--config-dir", str(_HERE / "conf"), "experiment=tiny", "logger=none",
            f"paths.root={tmp_path}", f"paths.cache={tmp_path / 'cache'}",
            f"hydra.run.dir={tmp_path / str(len(reused))}",
            "job=chain", f"+weights.net={start}", "+job.stages.only={take:[weights],overrides:['experiment=tiny']}",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / str(len(reused)) / "results.json").read_text())
        reused.append(results["stages"]["only"]["reused"])
    assert reused == [False, False, True]


def test_a_sweep_over_what_no_stage_sees_is_refused(tmp_path: Path) -> None:
    def judge(stage: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "brainlab", "-m", "--config-dir", str(_HERE / "conf"), "experiment=tiny",
            "validate=true", f"paths.root={tmp_path}", "job=chain", f"+job.stages.first={stage}", "seed=0,1",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    blind = judge("['experiment=tiny']")
    assert blind.returncode == 2
    assert "Invalid seed=0: reaches no stage of this chain" in blind.stderr
    seeing = judge("['experiment=tiny',\"seed=${seed}\"]")
    assert seeing.returncode == 0, seeing.stderr


def _taking(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "brainlab", *(["-m"] if any("," in word for word in words) else []), "--config-dir",
        str(_HERE / "conf"), "experiment=tiny_chain", "logger=none", f"paths.root={root}",
        f"paths.cache={root / 'cache'}", *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


def _only(root: Path, pattern: str) -> Path:
    (found,) = root.glob(pattern)
    return found


def test_a_stage_takes_parts_of_the_chain_and_its_own_words_win(tmp_path: Path) -> None:
    done = _taking(tmp_path, "model.weights='${stage:first.checkpoint}'", "model.lr=0.02")
    assert done.returncode == 0, done.stderr
    run = _only(tmp_path, "outputs/tiny_chain/*")
    first = OmegaConf.load(run / "stages" / "first" / "resolved.yaml")
    second = OmegaConf.load(run / "stages" / "second" / "resolved.yaml")
    assert (first.data.n, second.data.n) == (24, 36)
    assert (first.model.lr, second.model.lr) == (0.01, 0.02)
    assert second.model.weights.endswith("checkpoint.ckpt")
    assert (run / "checkpoints" / "best.ckpt").stat().st_size > 0


def test_a_sweep_over_a_taken_part_shares_the_stages_that_do_not_see_it(tmp_path: Path) -> None:
    done = _taking(tmp_path, "model.weights='${stage:first.checkpoint}'", "model.lr=0.02,0.03")
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("multirun/*/*/*/results.json"))]
    assert [result["stages"]["first"]["reused"] for result in results] == [False, True]
    assert [result["stages"]["second"]["reused"] for result in results] == [False, False]


def test_an_optional_stage_that_nothing_refers_to_is_left_out(tmp_path: Path) -> None:
    done = _taking(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((_only(tmp_path, "outputs/tiny_chain/*") / "results.json").read_text())["stages"]) == [
        "second"
    ]


def test_taking_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = _taking(tmp_path, "job.stages.second.take=[dta]")
    assert done.returncode == 2
    assert "Invalid take=dta: expected a key of the chain's configuration" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_published_size_trains_its_tokenizer_as_published(tmp_path: Path) -> None:
    from brainlab.config.compose import Composer, forget, publish

    register_resolver()
    cfg = Composer().compose(["experiment=meg_gpt_full", f"paths.root={tmp_path}"])
    publish(cfg)
    try:
        chain = Chain(OmegaConf.to_container(cfg.job.stages, resolve=True))
        stages = {stage.name: stage.cfg for stage in chain._composed(cfg)}
    finally:
        forget()
    assert list(stages) == ["prepare", "tokenizer", "gpt"]
    tokenizer, gpt = stages["tokenizer"], stages["gpt"]
    assert (tokenizer.model.lr, tokenizer.model.scheduler, tokenizer.model.phase_weight) == (5e-5, None, 0.5)
    assert (tokenizer.data.window_s, tokenizer.data.batch_size, tokenizer.data.tokenizer) == (10.24, 480, None)
    assert tokenizer.model.network.n_filters == 1024
    assert (gpt.model.lr, gpt.data.window_s, gpt.data.heldout_dataset) == (2e-4, 61.44, "mous")
    assert (gpt.model.corruption.ramp, gpt.model.corruption.p_end) == ("log", 0.02)
    contexts = gpt.evaluation
    assert (contexts.num_sessions, contexts.contexts_per_session, contexts.n_contexts) == (50, 1, 50)
    assert (contexts.place, contexts.task, contexts.total_s) == ("start", "rest", 307.2)
