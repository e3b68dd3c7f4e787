"""Jobs say when they run other code than they were submitted with."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from brainlab.run.sweep import code
from brainlab.run.sweep.code import code_at_submission, warn_if_code_changed


def submitted(folder: Path, monkeypatch, sha: str = "a" * 40, diff: str | None = None) -> dict:
    """A state of the checkout, as a run or a sweep in ``folder`` finds it."""

    def state(directory=None):
        if diff is not None and directory is not None:
            directory.path.mkdir(parents=True, exist_ok=True)
            directory.write("code.diff", diff)
        return {"git_sha": sha, "git_dirty": diff is not None, "diff": "code.diff" if diff is not None else None}

    monkeypatch.setattr(code, "code_state", state)
    return code_at_submission(folder)


def test_the_same_code_is_no_news(tmp_path, monkeypatch, caplog):
    facts = submitted(tmp_path, monkeypatch, diff="- old\n+ new\n")
    (tmp_path / "sweep.json").write_text(json.dumps({"brainlab_sweep": 1, "code": facts}))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "code.diff").write_text("- old\n+ new\n")

    warn_if_code_changed(tmp_path / "0", {"git_sha": "a" * 40, "diff": "code.diff"})

    assert caplog.text == ""


def test_another_commit_or_another_change_is_said_once(tmp_path, monkeypatch, caplog):
    facts = submitted(tmp_path, monkeypatch)
    (tmp_path / "sweep.json").write_text(json.dumps({"brainlab_sweep": 1, "code": facts}))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "code.diff").write_text("+ edited while the job waited\n")

    with caplog.at_level(logging.WARNING):
        warn_if_code_changed(tmp_path / "0", {"git_sha": "b" * 40, "diff": None})
        warn_if_code_changed(tmp_path / "0", {"git_sha": "a" * 40, "diff": "code.diff"})

    assert [record.message.partition(":")[2].strip()[:7] for record in caplog.records] == ["commit ", "compare"]


def test_a_run_outside_of_a_sweep_has_nothing_to_compare(tmp_path, caplog):
    warn_if_code_changed(tmp_path / "run", {"git_sha": "b" * 40, "diff": None})

    assert caplog.text == ""
