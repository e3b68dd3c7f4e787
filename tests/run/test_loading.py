"""The pause of the garbage collector while libraries load ends when it should."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from brainlab.run import loading as module
from brainlab.run.loading import keep_loaded, loading


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    was = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    if not was:
        gc.disable()


def test_collections_pause_within_and_go_on_afterwards_also_after_an_error() -> None:
    with loading():
        assert not gc.isenabled()
        with loading():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with loading():
        pass
    assert not gc.isenabled()


def test_only_the_first_job_of_a_process_keeps_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kept", False)
    gc.unfreeze()
    keep_loaded()
    kept = gc.get_freeze_count()
    assert kept > 0
    ring: list[object] = []
    ring.append(ring)
    keep_loaded()
    assert gc.get_freeze_count() <= kept
