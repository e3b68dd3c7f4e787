"""What users do wrong, typed as they would: one sentence, exit code 1 or 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

EEG = "things/Preprocessed_data_250Hz/sub-01/preprocessed_eeg_training.npy"
EEG_17 = "things/project/eeg_dataset/preprocessed_data/sub-01/preprocessed_eeg_training.npy"
BETAS = "nsd/nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf/betas_session02.hdf5"
PREPARE = ("job=prepare", "logger=none")
DEBUG = ("trainer=debug", "logger=none")
GRAMMAR = re.compile(r"^(run failed: )?Invalid [^=\n]+=.*: \S.*\.( Hint: .*[.?])?$")

# A process that has imported everything and runs each command in a child: seconds of imports are paid once, and a
# command that dies of a signal takes no test with it. It computes nothing itself, so that its children may.
SERVER = """
import json, os, sys
import h5py, lmdb, mne, nibabel, pandas, scipy.io, sklearn.cluster, torch, lightning
import brainlab.cli, brainlab.run.assemble, brainlab.run.evaluate, brainlab.run.report
import brainlab.data.eeg_patches, brainlab.data.things_nsd, brainlab.tasks.alignment

def child(words, cwd, out, cache):
    handle = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    os.environ["BRAINLAB_CACHE"] = cache
    sys.argv = ["brainlab", *words]
    code = 70
    try:
        brainlab.cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)

for line in sys.stdin:
    started = []
    for command in json.loads(line):
        process = os.fork()
        if process == 0:
            child(**command)
        started.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]
    print(json.dumps(codes), flush=True)
"""


class Ended(NamedTuple):
    code: int
    text: str
    folder: Path
    cache: Path

    @property
    def runs(self) -> list[Path]:
        return sorted(self.folder.glob("outputs/*/*"))


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BRAINLAB_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**env, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture
def together(server: subprocess.Popen[str], tmp_path: Path) -> Callable[..., list[Ended]]:
    """Runs commands at the same time, each in an empty folder of its own, all with one cache."""

    def run(*commands: tuple[str, ...], cache: Path = tmp_path / "cache") -> list[Ended]:
        asked = []
        for words in commands:
            folder = tmp_path / f"work{len(list(tmp_path.glob('work*')))}"
            folder.mkdir()
            asked.append({"words": words, "cwd": str(folder), "out": f"{folder}.txt", "cache": str(cache)})
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        return [
            Ended(code, Path(one["out"]).read_text(), Path(one["cwd"]), cache)
            for code, one in zip(codes, asked, strict=True)
        ]

    return run


@pytest.fixture
def brainlab(together: Callable[..., list[Ended]], tmp_path: Path) -> Callable[..., Ended]:
    def run(*words: str, cache: Path = tmp_path / "cache") -> Ended:
        return together(words, cache=cache)[0]

    return run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from brainlab.synthetic.image_pairs import write_image_pairs

    root = tmp_path_factory.mktemp("tree")
    write_image_pairs(root / "things", root / "nsd", size="tiny", seed=0)
    return root


@pytest.fixture
def damaged(tree: Path, tmp_path: Path) -> Path:
    """A copy to be damaged; its files are links, so they are replaced and never written into."""
    return Path(shutil.copytree(tree, tmp_path / "tree", copy_function=os.link))


def roots(tree: Path) -> tuple[str, str]:
    return f"data.things_root={tree / 'things'}", f"data.nsd_root={tree / 'nsd'}"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    replace(path, content[: int(len(content) * share)])


def change_eeg(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = pickle.loads(path.read_bytes())
    change(content)
    replace(path, pickle.dumps(content, protocol=4))


def leftovers(cache: Path) -> list[str]:
    """Temporary files, and results without a manifest."""
    found = [path for path in cache.rglob("*") if ".tmp" in path.name]
    entries = [path for path in cache.glob("*/*") if path.is_dir() and path.parent.name != "fingerprints"]
    return [str(path) for path in [*found, *(entry for entry in entries if not (entry / "manifest.json").is_file())]]


def refused(ended: Ended, *texts: str) -> None:
    """One sentence with these texts, the right exit code, and no half-written file."""
    assert ended.code in (1, 2), ended.text
    assert "Traceback" not in ended.text
    said = [line for line in ended.text.splitlines() if "Invalid " in line]
    assert len(said) == 1, ended.text
    assert GRAMMAR.match(said[0]), said[0]
    assert said[0].count("Invalid ") == 1, said[0]
    for text in texts:
        assert text in said[0]
    assert leftovers(ended.cache) == []
    if ended.code == 2:
        assert list(ended.folder.iterdir()) == []
        return
    (run,) = ended.runs
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit"]) == ("FAILED", 1)
    assert not (run / "results.json").exists()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("data.things_root=/no/where", "data.nsd_root=."), "data.things_root=/no/where: expected an existing folder"),
        (("data.things_root=.", "data.nsd_root=/no/where"), "data.nsd_root=/no/where: expected an existing folder"),
        (("data.things_root=.",), "data.nsd_root=null: expected a folder, because data.things_root is set"),
        (("data.nsd_root=.",), "data.things_root=null: expected a folder, because data.nsd_root is set"),
        (("experiment=eeg_pretrain", "data.root=/no/where"), "data.root=/no/where: expected an existing folder"),
    ],
)
def test_a_missing_root_is_named(brainlab, words, text):
    refused(brainlab(*PREPARE, *words), text)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (EEG, ()),
        (EEG_17, ("data.eeg_container=100hz",)),
        ("things/image_set/image_metadata.npy", ()),
        (BETAS, ()),
        ("nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", ()),
        ("nsd/nsddata/experiments/nsd/nsd_expdesign.mat", ()),
        ("nsd/nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz", ()),
    ],
)
def test_a_truncated_file_is_named_with_the_key_of_its_folder(brainlab, damaged, file, words):
    cut(damaged / file)
    ended = brainlab(*PREPARE, *roots(damaged), *words)
    refused(ended, str(damaged / file), "expected a complete", f"data.{file.split('/')[0]}_root")


def fewer_channels(content: dict[str, Any]) -> None:
    content["preprocessed_eeg_data"] = content["preprocessed_eeg_data"][:, :, :62]
    content["ch_names"] = content["ch_names"][:62]


def one_nan(content: dict[str, Any]) -> None:
    content["preprocessed_eeg_data"][3, 1, 5, 7] = np.nan


def no_names(content: dict[str, Any]) -> None:
    del content["ch_names"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (fewer_channels, "channels=62: expected 63"),
        (one_nan, "expected finite samples, found 1 NaN"),
        (no_names, "key=ch_names: missing"),
    ],
)
def test_eeg_of_another_content_is_refused(brainlab, damaged, change, text):
    change_eeg(damaged / EEG, change)
    refused(brainlab(*PREPARE, *roots(damaged)), str(damaged / EEG), text, "data.things_root")


def test_betas_that_are_no_numbers_are_refused(brainlab, damaged):
    import h5py

    path = damaged / BETAS
    with h5py.File(path) as file:
        betas = file["betas"][:].astype(np.float32) / 300
    betas[3] = np.nan
    path.unlink()
    with h5py.File(path, "w") as file:
        file["betas"] = betas
    refused(brainlab(*PREPARE, *roots(damaged)), f"betas={path}", "found 40 NaN", "data.nsd_root")


class Runs:
    """Pickled, it runs a command where it is loaded without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["bare", "object array", "metadata"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(brainlab, damaged, tmp_path, form):
    marker = tmp_path / "it_ran"
    content = {"preprocessed_eeg_data": Runs(marker), "ch_names": [], "times": []}
    path = damaged / {"bare": EEG, "object array": EEG_17, "metadata": "things/image_set/image_metadata.npy"}[form]
    if form == "bare":
        replace(path, pickle.dumps(content))
    else:
        path.unlink()
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
    words = ("data.eeg_container=100hz",) if form == "object array" else ()
    refused(brainlab(*PREPARE, *roots(damaged), *words), str(path), "posix.system", "data.things_root")
    assert not marker.exists()


def test_settings_that_leave_no_pair_are_named(brainlab, tree):
    refused(brainlab(*PREPARE, *roots(tree), "data.min_similarity=0.9999"), "data.min_similarity=0.9999", "0 pairs")


def test_a_truncated_result_in_the_cache_says_what_to_delete(brainlab, tree, tmp_path):
    assert brainlab(*PREPARE, *roots(tree)).code == 0
    (records,) = (tmp_path / "cache").glob("alignment_records/*/*/data.mdb")
    cut(records)
    refused(brainlab(*PREPARE, *roots(tree)), f"cached file={records}", f"delete the folder {records.parent.parent}")
    shutil.rmtree(records.parent.parent)
    assert brainlab(*PREPARE, *roots(tree)).code == 0


@pytest.mark.parametrize("size", ["3m", "7m"])  # full while samples, and while records are written
def test_a_full_disk_leaves_nothing_and_the_same_command_works_after_it_has_room(brainlab, tree, small_disk, size):
    cache = small_disk(size)
    refused(brainlab(*PREPARE, *roots(tree), cache=cache), f"cache={cache}", "the disk is full", "paths.cache")
    small_disk("40m")
    assert brainlab(*PREPARE, *roots(tree), cache=cache).code == 0


def test_two_runs_that_prepare_at_once_prepare_once(together):
    ended = together((*PREPARE, "data.size=tiny"), (*PREPARE, "data.size=tiny"))
    assert [one.code for one in ended] == [0, 0], ended[0].text + ended[1].text
    assert sum(one.text.count("simulating THINGS-EEG2 and NSD") for one in ended) == 1
    assert leftovers(ended[0].cache) == []
    for kind in ("image_pairs_simulated", "things_epochs", "alignment_records"):
        assert len([path for path in (ended[0].cache / kind).iterdir() if path.is_dir()]) == 1, kind


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mne

    root = tmp_path_factory.mktemp("recordings")
    samples = np.random.default_rng(0).normal(0, 1e-5, (8, 60 * 250))
    info = mne.create_info([f"E{n}" for n in range(8)], 250.0, "eeg", verbose="ERROR")
    mne.io.RawArray(samples, info, verbose="ERROR").save(root / "rest_raw.fif", verbose="ERROR")
    return root


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0])
def test_a_truncated_recording_is_named(brainlab, recordings, tmp_path, share):
    copy = Path(shutil.copytree(recordings, tmp_path / "recordings"))
    cut(copy / "rest_raw.fif", share)
    ended = brainlab(*PREPARE, "experiment=eeg_pretrain", f"data.root={copy}")
    refused(ended, f"recording={copy / 'rest_raw.fif'}", "data.root", "data.include")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("data.include=*.set",), "data.include=*.set: expected a pattern that matches"),
        (("data.window_s=100",), "data.window_s=100.0: expected at most the"),
        (("data.window_s=20",), "data.window_s=20.0: expected at most the"),
        (("data.patch_s=0.3",), "data.window_s=4.0: expected a whole number of patches"),
        (("data.fractions=[0.5,0.1,0.1]",), "data.fractions=[0.5, 0.1, 0.1]: expected three numbers"),
        (("data.guard_s=-1",), "data.guard_s=-1: expected at least 0"),
        (("data.batch_size=0",), "data.batch_size=0: expected at least 1"),
        (("data.num_workers=-1",), "data.num_workers=-1: expected at least 0"),
    ],
)
def test_settings_that_do_not_fit_the_recording_are_named(brainlab, recordings, words, text):
    refused(brainlab(*PREPARE, "experiment=eeg_pretrain", f"data.root={recordings}", *words), text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("seed=abc",), "seed=abc: expected a whole number"),
        (("seed=-1",), "seed=-1: expected 0 to"),
        (("data.batch_size=many",), "data.batch_size=many: expected a whole number"),
        (("data.split=weeks",), "data.split=weeks: expected concept, image, subject or sklearn"),
        (("data.match=best",), "data.match=best: expected greedy, optimal or candidate_list"),
        (("data.min_similarity=high",), "data.min_similarity=high: expected a number"),
        (("data.exclude_things_test=maybe",), "data.exclude_things_test=maybe: expected true or false"),
        (("data.fractions=[0.5,0.5]",), "data.fractions=[0.5, 0.5]: expected three numbers"),
        (("data.widnow=3",), "data.widnow=3: unknown key"),
        (("data.eeg_subjects=[sub-99]",), "data.eeg_subjects=sub-99: expected one of sub-01, sub-02"),
        (("model.head=attention",), "model.head=attention: expected a mapping with _target_"),
        (("model.lr=fast",), "model.lr=fast: expected a number"),
        (
            ("callbacks.early_stopping.patience=long",),
            "callbacks.early_stopping.patience=long: expected a whole number",
        ),
        (("paths.cache=/dev/null/x",), "paths.cache=/dev/null/x: expected a folder that can be written"),
    ],
)
def test_settings_of_another_kind_are_named_before_anything_is_prepared(brainlab, tree, words, text):
    refused(brainlab(*PREPARE, *roots(tree), *words), text)


def test_a_negative_learning_rate_is_refused(brainlab, tree):
    refused(brainlab(*DEBUG, *roots(tree), "model.lr=-1"), "model.lr=-1: expected a finite number")


@pytest.mark.parametrize(
    ("key", "content", "text"),
    [
        ("weights.encoder", "junk", "expected a complete file written by torch.save"),
        ("weights.encoder", "code", "it asks for posix.system"),
        ("weights.encoder", "list", "expected a dictionary of tensors, found list"),
        ("weights.encoder", "others", "expected CBraMod weights"),
        ("weights.encoder", "absent", "expected an existing file"),
        ("job.checkpoint", "junk", "expected a complete file written by torch.save"),
        ("job.checkpoint", "code", "it asks for posix.system"),
        ("job.checkpoint", "others", "expected a checkpoint with a state_dict"),
        ("job.checkpoint", "absent", "expected an existing file"),
    ],
)
def test_weights_that_cannot_be_used_are_named_and_never_run(brainlab, tree, tmp_path, key, content, text):
    import torch

    file, marker = tmp_path / "weights.pt", tmp_path / "it_ran"
    if content == "junk":
        file.write_bytes(b"no weights" * 100)
    elif content != "absent":
        torch.save({"code": {"a": Runs(marker)}, "list": [1], "others": {"a": torch.zeros(3)}}[content], file)
    job = ("job=evaluate",) if key == "job.checkpoint" else ()
    refused(brainlab(*DEBUG, *roots(tree), *job, f"{key}={file}"), str(file), text)
    assert not marker.exists()
