"""Looking costs little: no heavy library is loaded before a run really starts."""

from __future__ import annotations

import pytest

HEAVY = ("torch", "lightning", "mlflow", "mne", "diffusers", "accelerate", "transformers", "numpy")
MEASURE = """
import resource, sys
from brainlab.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in {heavy!r} if name in sys.modules]
print("MEASURED", code, used.ru_utime + used.ru_stime, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--cfg", "job"], 0),
        (["--help"], 0),
        (["model.lrr=1"], 2),
        (["experiment=nope"], 2),
        (["validate=true"], 0),
        (["-m", "model.lr=1,abc"], 2),
    ],
    ids=["cfg", "help", "mistyped key", "mistyped experiment", "check", "swept value"],
)
def test_looking_loads_no_heavy_library_and_little_time(words, code, workplace):
    ended = workplace.run(*words, code=MEASURE.format(heavy=HEAVY))

    measured = next(line for line in ended.err.splitlines() if line.startswith("MEASURED")).split(maxsplit=3)
    assert int(measured[1]) == code
    assert measured[3] == "[]"
    # The budget is 0.6 CPU-seconds on an idle machine; CPU time grows when its cores are shared.
    assert float(measured[2]) < 1.2


def test_help_names_every_group_with_a_description(brainlab):
    from brainlab.config.search_path import conf_dir

    shown = brainlab("--help").out
    described = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and len(line.split()) > 2]

    for group in conf_dir().iterdir():
        if group.is_dir():
            assert group.name in described
    assert "mine" in shown


def test_the_version_is_printed(brainlab):
    from brainlab import __version__

    ended = brainlab("--version")
    assert ended.code == 0
    assert __version__ in ended.out


def test_completion_offers_experiments_also_of_a_named_folder(workplace):
    def offered(line):
        ended = workplace.run(
            "-sc", "query=bash", mine=False, COMP_LINE=line, COMP_POINT=str(len(line)), COLUMNS="80",
        )  # fmt: skip
        return ended.out.split()

    assert "experiment=eeg_fmri_align" in offered("brainlab experiment=")
    assert offered(f"brainlab --config-dir {workplace.root / 'mine'} experiment=mi") == ["experiment=mine"]


def test_completion_can_be_installed(workplace):
    assert "complete" in workplace.run("-sc", "install=bash", mine=False).out
