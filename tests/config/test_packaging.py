"""The wheel holds every configuration file and works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from brainlab.config.search_path import conf_dir, launchers_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sdist and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in (".yaml", ".md")}


def test_sdist_and_wheel_hold_every_configuration_file(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if name.startswith("brainlab/conf/")}
        launchers = {name for name in file.namelist() if name.startswith("brainlab/launchers/")}
        plugins = {name for name in file.namelist() if name.startswith("hydra_plugins/")}
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}

    assert inside == {f"brainlab/conf/{name}" for name in names(conf_dir())}
    assert launchers == {f"brainlab/launchers/{name}" for name in names(launchers_dir())}
    assert {f"conf/{name}" for name in names(conf_dir())} <= packed
    assert "hydra_plugins/__init__.py" not in plugins
    assert any("brainlab_sweeper" in name for name in plugins)


def test_the_wheel_finds_its_own_configuration_and_the_users(built, tmp_path):
    _, wheel = built
    site, cwd = tmp_path / "site", tmp_path / "empty"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    (cwd / "conf" / "experiment").mkdir(parents=True)
    (cwd / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - eeg_fmri_align\nseed: 5\n"
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("BRAINLAB_")},
        "PYTHONPATH": str(site),
    }

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "brainlab", *words], cwd=cwd, env=environment, capture_output=True, text=True
        )

    searched = run("--info", "searchpath")
    composed = run("experiment=mine", "--cfg", "job", "-p", "seed")

    assert searched.returncode == 0, searched.stderr
    assert f"file://{site}/brainlab/conf" in searched.stdout
    assert f"file://{site}/brainlab/launchers" in searched.stdout
    assert composed.stdout.strip() == "5"
    assert run("experiment=mine", "validate=true").returncode == 0
    assert run("model.lrr=1").returncode == 2
