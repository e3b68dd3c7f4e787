"""What a cluster is asked for; no cluster is needed to see it."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from brainlab.config import schema
from brainlab.config.compose import Composer, forget
from brainlab.config.search_path import launchers_dir
from brainlab.errors import BrainlabError
from brainlab.run.sweep import slurm
from brainlab.run.sweep.runners import script_for
from brainlab.run.sweep.slurm import SlurmArrays, chunks, max_array_size

PROFILES = sorted(path.stem for path in (launchers_dir() / "hydra" / "launcher").glob("*.yaml"))
BASE: dict[str, Any] = {
    "cpus_per_task": 8, "gpus_per_node": 1, "nodes": 1, "tasks_per_node": 1, "timeout_min": 60, "name": "brainlab",
    "array_parallelism": 16, "setup": None, "signal_delay_s": 120, "additional_parameters": {},
}  # fmt: skip
FAKE_SBATCH = """#!/bin/sh
n=$(($(cat "$FAKE/count" 2>/dev/null || echo 0) + 1))
echo $n > "$FAKE/count"
cp "$1" "$FAKE/script-$n.sh"
if [ "$n" -eq "${FAILS:-0}" ]; then
  echo 'sbatch: error: invalid partition specified: gpuu' >&2
  echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2
  exit 1
fi
echo "Submitted batch job $((100 + n))"
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for SLURM's commands: arrays of three, and what was cancelled is written down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "sbatch": FAKE_SBATCH,
        "scontrol": "#!/bin/sh\necho 'MaxArraySize            = 3'\n",
        "scancel": '#!/bin/sh\necho "$@" >> "$FAKE/cancelled"\n',
        "srun": "#!/bin/sh\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    return tmp_path


def script(tmp_path: Path, n_jobs: int = 2, folder: str = "sweep", **keys: Any) -> str:
    return SlurmArrays({**BASE, **keys}, tmp_path / folder).script(n_jobs)


def lines(text: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}


def test_the_script_asks_for_an_array_named_brainlab_and_starts_our_worker(tmp_path: Path) -> None:
    text = script(tmp_path)
    assert {"--array=0-1%2", "--job-name=brainlab", "--cpus-per-task=8", "--gpus-per-node=1", "--time=60",
            "--signal=USR2@120", "--open-mode=append"} <= lines(text)  # fmt: skip
    assert f"-u -m brainlab.run.sweep.work {tmp_path}/sweep/.submitit/%j" in text
    assert "wckey" not in text
    assert not (tmp_path / "sweep").exists()


def test_one_job_is_no_array(tmp_path: Path) -> None:
    text = script(tmp_path, n_jobs=1)
    assert "--array" not in text
    assert f"--output={tmp_path}/sweep/.submitit/%j/%j_0_log.out" in lines(text)


def test_several_nodes_get_one_process_per_device(tmp_path: Path) -> None:
    asked = lines(script(tmp_path, nodes=2, tasks_per_node=2, gpus_per_node=2))
    assert {"--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=8"} <= asked


def test_one_process_that_fails_ends_the_others_of_its_job(tmp_path: Path) -> None:
    assert " --kill-on-bad-exit=1 --cpu-bind=none " in script(tmp_path, tasks_per_node=2, srun_args=["--cpu-bind=none"])
    assert "--kill-on-bad-exit=1" in script(tmp_path, nodes=2)
    assert "kill-on-bad-exit" not in script(tmp_path)
    assert script(tmp_path, tasks_per_node=2, srun_args=["--kill-on-bad-exit=0"]).count("kill-on-bad-exit") == 1


@pytest.mark.parametrize("setup", [None, [], ["module load cuda"]])
def test_srun_is_told_the_cores_whatever_a_profile_sets_up(tmp_path: Path, setup: list[str] | None) -> None:
    text = script(tmp_path, setup=setup)
    needed = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    assert text.splitlines().count(needed) == 1
    for line in setup or []:
        assert needed in text[: text.index(line)]
    assert text.index(needed) < text.index("srun --unbuffered")


def test_a_profile_may_set_the_cores_itself(tmp_path: Path) -> None:
    text = script(tmp_path, setup=["export SRUN_CPUS_PER_TASK=2"])
    assert [line for line in text.splitlines() if "SRUN_CPUS" in line] == ["export SRUN_CPUS_PER_TASK=2"]
    assert "SRUN_CPUS" not in script(tmp_path, cpus_per_task=None)


def test_keys_that_the_stock_launcher_lacks_reach_the_script(tmp_path: Path) -> None:
    text = script(tmp_path, srun_args=["--cpu-bind=none"], python="python", partition="gpu",
                  additional_parameters={"reservation": "mine", "requeue": True})  # fmt: skip
    assert {"--partition=gpu", "--reservation=mine", "--requeue"} <= lines(text)
    assert "--cpu-bind=none python -u -m brainlab.run.sweep.work" in text
    assert "srun" not in script(tmp_path, use_srun=False).replace("SRUN", "")


def test_paths_with_spaces_and_quotes_are_quoted(tmp_path: Path) -> None:
    folder = "it's a sweep"
    text = script(tmp_path, folder=folder)
    worker = next(line for line in text.splitlines() if line.startswith("srun"))
    assert shlex.split(worker)[-1] == f"{tmp_path}/{folder}/.submitit/%j"
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("n", [1, 2, 3, 7, 200, 1001, 2500])
@pytest.mark.parametrize("most", [1, 3, 1001])
def test_chunks_are_few_equal_and_complete(n: int, most: int) -> None:
    parts = chunks(range(n), most)
    assert [number for part in parts for number in part] == list(range(n))
    assert len(parts) == -(-n // most)
    sizes = {len(part) for part in parts}
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1


def test_the_limit_of_arrays_is_the_clusters_own(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_array_size() == 3
    monkeypatch.setenv("PATH", "/nowhere")
    assert max_array_size() == 1001


def test_a_sweep_above_the_limit_becomes_several_arrays_that_share_the_parallelism(commands: Path) -> None:
    ids = SlurmArrays({**BASE, "array_parallelism": 4}, commands / "sweep").submit([5, 6, 7, 9, 10])
    assert ids == {5: "101_0", 6: "101_1", 7: "101_2", 9: "102_0", 10: "102_1"}
    assert "--array=0-2%2" in lines((commands / "script-1.sh").read_text())
    assert "--array=0-1%2" in lines((commands / "script-2.sh").read_text())
    logs = commands / "sweep" / ".submitit"
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700
    assert {path.name for path in logs.iterdir() if "_" in path.name and path.is_dir()} == set(ids.values())


@pytest.mark.parametrize(("parallel", "said"), [(1, 1), (2, 0)])
def test_more_arrays_than_may_run_at_a_time_are_mentioned_once(
    commands: Path, caplog: pytest.LogCaptureFixture, parallel: int, said: int
) -> None:
    SlurmArrays({**BASE, "array_parallelism": parallel}, commands / "sweep").submit(range(5))
    mentioned = [record.getMessage() for record in caplog.records if "array_parallelism" in record.getMessage()]
    assert len(mentioned) == said
    assert all("up to 2 run at the same time" in text for text in mentioned)


def test_a_refusal_is_one_sentence_and_what_was_accepted_before_is_cancelled(
    commands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "2")
    with pytest.raises(BrainlabError) as refused:
        SlurmArrays(BASE, commands / "sweep").submit(range(5))
    assert str(refused.value) == (
        "sbatch refused the jobs: invalid partition specified: gpuu; "
        "Batch job submission failed: Invalid partition name specified"
    )
    assert capsys.readouterr().err == ""
    assert (commands / "cancelled").read_text() == "101\n"


def test_there_are_profiles() -> None:
    assert {"cluster_a100", "cluster_preempt", "cpu_array", "debug", "ci", "cluster_template"} <= set(PROFILES)


@pytest.mark.parametrize("name", [*PROFILES, "submitit_slurm"])
def test_every_profile_composes_and_makes_a_script(name: str, tmp_path: Path) -> None:
    schema.register()
    try:
        config = Composer().compose([f"hydra/launcher={name}", f"hydra.sweep.dir={tmp_path}/sweep"], multirun=True)
        assert OmegaConf.missing_keys(config.hydra.launcher) == set()
        text = script_for(config, 2)
    finally:
        forget()
    assert text is not None
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert "--job-name=brainlab" in lines(text)
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in text


def test_other_launchers_have_no_script(tmp_path: Path) -> None:
    schema.register()
    try:
        for name in ("basic", "submitit_local"):
            assert script_for(Composer().compose([f"hydra/launcher={name}"], multirun=True), 2) is None
    finally:
        forget()


def test_nothing_to_cancel_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    slurm.cancel([])
