"""``env.json``: the code, the packages and the machine that produced a run."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import brainlab
from brainlab.config import search_path
from brainlab.run.directory import RunDirectory

__all__ = ["code_state", "describe_machine", "environment", "versions"]

_PACKAGES = (
    "brainlab",
    "hydra-core",
    "omegaconf",
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "mne",
    "h5py",
    "lmdb",
    "mlflow",
    "diffusers",
    "accelerate",
    "submitit",
    "hydra-submitit-launcher",
    "matplotlib",
    "pandas",
    "pillow",
)

_LONGEST_DIFF = 1_000_000


def versions() -> dict[str, str]:
    """Installed versions of what a run may use; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_state(run: RunDirectory | None = None) -> dict[str, Any]:
    """Commit and cleanliness of the checkout that this package runs from; a dirty one leaves ``code.diff``,
    of which at most a million characters are kept.

    An installed package has no checkout: then the values are ``None``.
    """
    package = Path(brainlab.__file__).parent
    nothing: dict[str, Any] = {"git_sha": None, "git_dirty": None, "diff": None}
    if {"site-packages", "dist-packages"} & set(package.parts):
        return nothing
    sha = _git(package, "rev-parse", "HEAD")
    if sha is None:
        return nothing
    changes = _git(package, "diff", "HEAD", "--no-color") or ""
    untracked = _git(package, "status", "--porcelain", "--untracked-files=normal") or ""
    dirty = bool(changes.strip() or untracked.strip())
    name = None
    if dirty and run is not None:
        name = "code.diff"
        run.write(name, _cut(changes) + "\n" + _cut(untracked))
    return {"git_sha": sha.strip(), "git_dirty": dirty, "diff": name}


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_DIFF:
        return text
    return f"{text[:_LONGEST_DIFF]}\n# Cut here: only {_LONGEST_DIFF} of {len(text)} characters are kept.\n"


def describe_machine() -> dict[str, Any]:
    """Host, processor, memory and GPUs."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
    }
    slurm = {key: value for key, value in sorted(os.environ.items()) if key.startswith("SLURM_") and "JOB" in key}
    if slurm:
        facts["slurm"] = slurm
    return facts


def environment(run: RunDirectory) -> dict[str, Any]:
    """Everything for ``env.json``."""
    return {
        "code": code_state(run),
        "versions": versions(),
        "machine": describe_machine(),
        "executable": sys.executable,
        "config_files": _config_sources(),
        "config_replaced": [
            {"file": str(theirs), "replaces": search_path.shown(ours)}
            for theirs, ours in search_path.current().replaced
        ],
        "threads": {key: os.environ[key] for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key in os.environ},
    }


def _config_sources() -> list[dict[str, str]]:
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [{"provider": source.provider, "path": source.path} for source in sources if source.path]


def _git(folder: Path, *words: str) -> str | None:
    if shutil.which("git") is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
