"""The real SLURM of these tests, and ``brainlab -m`` on it.

Everything here runs on one cluster in one process; tests that need it in another mode are put last, because a change of
mode restarts it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CPUS = 24
LIGHT = ("--config-dir", str(HERE / "conf"), "experiment=light")
ON_SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.gpus_per_node=0",
    "hydra.launcher.timeout_min=30",
    "hydra.launcher.array_parallelism=24",
    "hydra.launcher.poll_interval_s=2",
)
_MODES = ("cluster", "any_accounting", "cluster_without_accounting", "small_arrays")


def _required() -> bool:
    return os.environ.get("BRAINLAB_REQUIRE_SLURM") == "1"


@pytest.hookimpl(tryfirst=True)  # before the marker is asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def mode(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("any_accounting") == "without-sacct":
            return _MODES.index("cluster_without_accounting")
        return max((_MODES.index(name) for name in names if name in _MODES), default=0)

    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.slurm)
    others = [item for item in items if not item.path.is_relative_to(HERE)]
    items[:] = others + sorted(ours, key=mode)  # a stable sort: files stay together within a mode


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where SLURM is required, a skipped test has shown nothing and fails."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and _required():
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: {reason}, but BRAINLAB_REQUIRE_SLURM=1"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class SlurmCluster:
    """The cluster, as a test sees it."""

    cpus = CPUS

    def __init__(self) -> None:
        self._mode: tuple[int, int] | None = None
        self.was_up = self._script("status", check=False) == 0

    def _script(self, word: str, check: bool = True, **settings: int) -> int:
        environment = {**os.environ, **{f"CLUSTER_{key.upper()}": str(value) for key, value in settings.items()}}
        done = subprocess.run([HERE / "cluster.sh", word], env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode and check:
            pytest.fail(f"cluster.sh {word} ended with {done.returncode}:\n{done.stderr}", pytrace=False)
        return done.returncode

    def be(self, accounting: bool = True, max_array: int = 1001) -> SlurmCluster:
        """Restart the cluster where its mode is another one."""
        mode = (int(accounting), max_array)
        if mode != self._mode:
            self._script("up", accounting=mode[0], max_array=mode[1], cpus=CPUS)
            self._mode = mode
        return self

    def end(self) -> None:
        if self.was_up:  # somebody's, who develops with it
            self.be()
        else:
            self._script("down")

    @staticmethod
    def until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Wait until something holds; its value."""
        end = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            time.sleep(0.2)
        return value

    @staticmethod
    def ask(*command: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def states(self, *job_ids: str) -> dict[str, str]:
        """``STATE EXITCODE`` of each task as the controller has it, e.g. ``FAILED 1:0``."""
        found = {}
        for job_id in job_ids:
            for line in self.ask("scontrol", "-o", "show", "job", job_id).splitlines():
                facts = dict(re.findall(r"(\w+)=(\S*)", line))
                task = f"_{facts['ArrayTaskId']}" if "ArrayTaskId" in facts else ""
                found[facts.get("ArrayJobId", facts["JobId"]) + task] = f"{facts['JobState']} {facts['ExitCode']}"
        return found

    def accounted(self, *job_ids: str) -> dict[str, str]:
        """``STATE EXITCODE`` of each task as ``sacct`` has it."""
        text = self.ask("sacct", "-X", "-n", "--parsable2", "-o", "JobID,State,ExitCode", "-j", ",".join(job_ids))
        lines = [line.split("|") for line in text.splitlines()]
        return {job_id: f"{state.split()[0]} {code}" for job_id, state, code in lines}

    def processes(self, job_id: str) -> list[int]:
        """The processes that srun started for a task; those of the batch script are not among them."""
        # Tasks of an array have a number of their own, which is the only one that this command takes.
        raw = re.search(r"JobId=(\d+)", self.ask("scontrol", "-o", "show", "job", job_id))
        assert raw is not None
        done = subprocess.run(["scontrol", "listpids", raw[1]], capture_output=True, text=True, timeout=60)
        lines = [line.split() for line in done.stdout.splitlines()[1:]]
        return [int(line[0]) for line in lines if line[1] == raw[1] and line[2] not in ("batch", "extern")]

    def preempt(self, seconds: float = 0.0) -> subprocess.CompletedProcess[str]:
        """Take the whole node from the jobs in the default partition, and give it back."""
        command = ["srun", "-p", "high", "-c", str(CPUS), "sleep", str(seconds)]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


@pytest.fixture(scope="session")
def _slurm() -> Iterator[SlurmCluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to start the daemons of a cluster")
    missing = [program for program in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian packages slurm-wlm, munge, slurmdbd and mariadb-server)")
    text = subprocess.run([HERE / "cluster.sh", "env"], capture_output=True, text=True, check=True).stdout
    with pytest.MonkeyPatch.context() as patch:
        for name, value in re.findall(r"export (\w+)=(\S+)", text):
            patch.setenv(name, value)
        cluster = SlurmCluster()
        try:
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def cluster(_slurm: SlurmCluster) -> SlurmCluster:
    """SLURM with accounting."""
    return _slurm.be()


@pytest.fixture
def cluster_without_accounting(_slurm: SlurmCluster) -> SlurmCluster:
    """SLURM where ``sacct`` fails."""
    return _slurm.be(accounting=False)


@pytest.fixture(params=["sacct", "without-sacct"])
def any_accounting(_slurm: SlurmCluster, request: pytest.FixtureRequest) -> SlurmCluster:
    """SLURM in both modes, one after the other."""
    return _slurm.be(accounting=request.param == "sacct")


@pytest.fixture
def small_arrays(_slurm: SlurmCluster) -> SlurmCluster:
    """SLURM that takes arrays of three tasks at most."""
    return _slurm.be(max_array=3)


@dataclass
class Sweep:
    """A ``brainlab -m`` that was started: wait for it, or look while it runs."""

    process: subprocess.Popen[str]
    folder: Path
    started: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = 240.0) -> Ended:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the sweep does not end within {seconds} s\n{out}\n{err}") from None
        return Ended(self.process.returncode, out, err)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, number)

    def rows(self) -> dict[int, dict[str, str]]:
        """``sweep.csv`` by job number."""
        path = self.folder / "sweep.csv"
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            return {int(row["num"]): row for row in csv.DictReader(file)}

    def states(self) -> dict[int, str]:
        return {number: row["state"] for number, row in self.rows().items()}

    def job_ids(self) -> dict[int, str]:
        """SLURM's names of the jobs by number, as soon as they are known."""
        try:
            record = json.loads((self.folder / "sweep.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {job["num"]: job["job_id"] for job in record["jobs"] if job.get("job_id")}

    def started_jobs(self) -> dict[int, int]:
        """How often each job's code ran: the files that ``light_job`` leaves."""
        folders = [path for path in self.folder.iterdir() if path.name.isdigit()]
        return {int(path.name): count for path in folders if (count := len(list(path.glob("ran-*"))))}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Start ``brainlab -m WORDS`` on the cluster, by default over the light job; nothing is left when a test ends."""
    running: list[Sweep] = []

    def begin(*words: str, base: tuple[str, ...] = LIGHT, name: str = "sweep", **environment: str) -> Sweep:
        folder = tmp_path / name
        command = [sys.executable, "-m", "brainlab", "-m", *base, *ON_SLURM, f"hydra.sweep.dir={folder}", *words]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(Sweep(process, folder))
        return running[-1]

    yield begin
    for sweep in running:
        if sweep.process.poll() is None:
            sweep.kill()
            sweep.process.communicate()
        jobs = sorted({job_id.partition("_")[0] for job_id in sweep.job_ids().values()})
        if jobs:
            subprocess.run(["scancel", *jobs], capture_output=True, timeout=60)
