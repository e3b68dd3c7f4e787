"""Where configuration files are found, and who wins."""

from __future__ import annotations

import os
import shutil

import pytest

from brainlab.config.search_path import conf_dir

MARK = "# brainlab-config: 1\n"


@pytest.fixture
def mine(workplace):
    return workplace.root / "mine"


def test_three_ways_to_name_a_folder_give_the_same_configuration(brainlab, workplace, mine, monkeypatch):
    words = ["experiment=mine", "--cfg", "job"]
    by_flag = brainlab("--config-dir", str(mine), *words, mine=False)
    monkeypatch.setenv("BRAINLAB_CONFIG_DIR", str(mine))
    by_environment = brainlab(*words, mine=False)
    monkeypatch.delenv("BRAINLAB_CONFIG_DIR")
    shutil.copytree(mine, workplace.cwd / "conf")
    by_place = brainlab(*words, mine=False)

    assert by_flag.code == 0
    assert by_flag.out == by_environment.out == by_place.out


def test_an_edited_copy_replaces_the_packaged_file_and_says_so(brainlab, workplace):
    copy = workplace.cwd / "conf" / "experiment" / "eeg_fmri_align.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text((conf_dir() / "experiment" / "eeg_fmri_align.yaml").read_text() + "\ntags: [edited]\n")

    ended = brainlab("--cfg", "job", "-p", "tags", mine=False)

    assert "edited" in ended.out
    assert "conf/experiment/eeg_fmri_align.yaml replaces the packaged conf/experiment/eeg_fmri_align.yaml" in ended.err


def test_the_flag_wins_over_the_environment_and_that_over_the_place(brainlab, workplace, mine, monkeypatch):
    folders = {}
    for name, lr in {"flag": 1, "environment": 2, "conf": 3}.items():
        folders[name] = (workplace.cwd if name == "conf" else workplace.root) / name
        (folders[name] / "model").mkdir(parents=True)
        (folders[name] / "model" / "line.yaml").write_text(f"_target_: minilab.parts.Model\nlr: {lr}\n")
    monkeypatch.setenv("BRAINLAB_CONFIG_DIR", os.pathsep.join([str(folders["environment"]), str(mine)]))
    words = ["experiment=mine", "--cfg", "job", "-p", "model.lr"]

    assert brainlab("--config-dir", str(folders["flag"]), *words, mine=False).out.strip() == "1"
    assert brainlab(*words, mine=False).out.strip() == "2"
    monkeypatch.setenv("BRAINLAB_CONFIG_DIR", "")
    monkeypatch.setenv("BRAINLAB_CONFIG_DIR", str(folders["conf"]))
    assert brainlab("--config-dir", str(mine), *words, mine=False).out.strip() == "0.001"


def test_a_root_file_with_the_mark_replaces_ours(brainlab, workplace):
    root = workplace.cwd / "conf" / "config.yaml"
    root.parent.mkdir()
    root.write_text((conf_dir() / "config.yaml").read_text().replace("seed: 0", "seed: 42"))

    assert brainlab("--cfg", "job", "-p", "seed").out.strip() == "42"


def test_a_root_file_of_another_program_is_skipped_or_refused(brainlab, workplace):
    root = workplace.cwd / "conf" / "config.yaml"
    root.parent.mkdir()
    root.write_text("name: something else\n")

    skipped = brainlab("--cfg", "job", "-p", "seed")
    named = brainlab("--config-dir", "conf", mine=False)

    assert skipped.code == 0
    assert "./conf is skipped" in skipped.err
    assert named.code == 2
    assert "conf/config.yaml" in named.err


@pytest.mark.parametrize("name", ["experiment/other.yml", "config.yml"])
def test_yml_files_are_refused(name, brainlab, mine):
    (mine / name).write_text("a: 1\n")

    ended = brainlab()

    assert ended.code == 2
    assert name in ended.err
    assert ".yaml" in ended.err


def test_a_folder_that_is_missing_is_refused(brainlab, monkeypatch):
    assert brainlab("--config-dir", "nowhere", mine=False).code == 2
    monkeypatch.setenv("BRAINLAB_CONFIG_DIR", "/nowhere")
    ended = brainlab(mine=False)
    assert ended.code == 2
    assert "BRAINLAB_CONFIG_DIR" in ended.err


def test_in_a_checkout_the_packaged_folder_is_searched_once(brainlab, monkeypatch):
    monkeypatch.chdir(conf_dir().parent)

    shown = brainlab("--info", "searchpath", "experiment=none", "data=eeg_patches", "model=masked_cbramod", mine=False)

    assert shown.out.count(str(conf_dir())) == 1


def test_the_order_of_options_and_overrides_does_not_matter(brainlab):
    first = brainlab("--cfg", "job", "seed=3", "-p", "seed")
    last = brainlab("seed=3", "-p", "seed", "--cfg", "job")

    assert first.out == last.out
    assert first.out.strip() == "3"
