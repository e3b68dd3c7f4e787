"""``rerun`` repeats a run byte for byte; ``resume`` goes on in its folder."""

from __future__ import annotations

import pytest


@pytest.fixture
def finished(workplace):
    ended = workplace.run("seed=7")
    assert ended.code == 0, ended.err
    (folder,) = (workplace.cwd / "outputs" / "mine").glob("*")
    return folder


def test_a_rerun_has_the_same_resolved_configuration_in_a_new_folder(workplace, finished):
    ended = workplace.run(f"rerun={finished}", mine=False)

    assert ended.code == 0, ended.err
    (again,) = set((workplace.cwd / "outputs" / "mine").glob("*")) - {finished}
    assert (again / "resolved.yaml").read_bytes() == (finished / "resolved.yaml").read_bytes()


def test_beside_a_rerun_only_places_may_change(brainlab, workplace, finished):
    def check(*words):
        return brainlab(f"rerun={finished}", "validate=true", *words, mine=False)

    assert check("logger=none").code == 0
    assert check(f"paths.root={workplace.root}").code == 0
    for word in ("seed=8", "model.lr=1", "trainer.max_epochs=3", "experiment=mine"):
        ended = check(word)
        assert ended.code == 2
        assert "cannot accompany rerun" in ended.err


def test_a_resumed_run_stays_in_its_folder_with_its_configuration(workplace, finished):
    before = (finished / "resolved.yaml").read_bytes()

    ended = workplace.run(f"resume={finished}", mine=False)

    assert ended.code == 0, ended.err
    assert list((workplace.cwd / "outputs" / "mine").glob("*")) == [finished]
    assert (finished / "resolved.yaml").read_bytes() == before


def test_beside_resume_a_run_may_grow_and_repeat_itself_but_not_change(brainlab, finished):
    def check(*words):
        return brainlab(f"resume={finished}", "validate=true", *words, mine=False)

    assert check("trainer.max_epochs=60").code == 0
    assert check("seed=7").code == 0
    assert check("experiment=mine", "seed=7").code == 0
    assert "expected a whole number" in check("trainer.max_epochs=many").err
    ended = check("seed=8")
    assert ended.code == 2
    assert "cannot accompany resume" in ended.err


def test_other_settings_for_a_resumed_run_are_answered_with_how_to_start_from_its_weights(brainlab, finished):
    ended = brainlab(f"resume={finished}", "model.lr=1", mine=False)
    assert ended.code == 2
    assert f"weights.network={finished}" in ended.err

    assert brainlab("validate=true", f"weights.network={finished / 'resolved.yaml'}").code == 0
    for key in ("weights.network", "+weights.head", "+weights.network.decoder"):
        ended = brainlab("validate=true", f"{key}={finished}")
        assert ended.code == 2
        expected = f"{key.lstrip('+')}={finished}: expected a run directory with checkpoints/best.ckpt"
        assert expected in ended.err


def test_a_folder_without_a_run_cannot_be_repeated(brainlab, tmp_path):
    ended = brainlab(f"rerun={tmp_path}", mine=False)

    assert ended.code == 2
    assert "resolved.yaml" in ended.err


@pytest.mark.parametrize("place", ["", "/checkpoints/best.ckpt"])
@pytest.mark.parametrize("kept", [".hydra/hydra.yaml", "resolved.yaml"])
def test_an_evaluation_is_composed_from_the_experiment_of_its_checkpoint(place, kept, brainlab, workplace):
    run = workplace.root / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    name = "experiment_name: meg_var"
    (run / kept).write_text(name if kept == "resolved.yaml" else "hydra: {runtime: {choices: {experiment: meg_var}}}")
    words = ["job=evaluate", f"checkpoint={run}{place}", "validate=true"]

    assert brainlab(*words, "evaluation.n_contexts=2", mine=False).code == 0
    other = brainlab(*words, "experiment=eeg_fmri_align", "evaluation.n_contexts=2", mine=False)
    assert other.code == 2
    assert "evaluation.n_contexts" in other.err
