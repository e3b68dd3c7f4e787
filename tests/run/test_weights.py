"""A training starts from weights of another run, whatever stands before their names, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.run.weights import fingerprint_weights, load_weights_into


class Task(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))
        self.head = nn.Linear(2, 1)


@pytest.fixture
def trained() -> Task:
    torch.manual_seed(1)
    return Task()


def _saved(folder: Path, state: dict[str, Any]) -> str:
    torch.save(state, folder / "weights.pt")
    return str(folder / "weights.pt")


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    "prefix",
    ["network.", "", "model.", "model.network.", "_orig_mod.", "_orig_mod.network.", "network._orig_mod."],
)
def test_a_part_is_found_under_every_name_that_checkpoints_give_it(
    tmp_path: Path, trained: Task, prefix: str, nested: bool
) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in trained.network.state_dict().items()}
    if "network." in prefix:
        state["head.weight"] = torch.zeros(1, 2)
    task = Task()
    load_weights_into(task, {"network": _saved(tmp_path, {"state_dict": state, "epoch": 3} if nested else state)})
    assert _same(task.network, trained.network)
    assert not _same(task.head, trained.head)


def test_a_part_of_a_part_is_found_by_its_dotted_name(tmp_path: Path, trained: Task) -> None:
    task = Task()
    load_weights_into(task, {"network.0": _saved(tmp_path, {"state_dict": trained.state_dict()})})
    assert _same(task.network[0], trained.network[0])
    assert not _same(task.network[1], trained.network[1])


def test_names_of_a_part_that_look_like_prefixes_are_kept(tmp_path: Path) -> None:
    task, other = (nn.ModuleDict({"model": nn.ModuleDict({"model": nn.Linear(2, 1)})}) for _ in range(2))
    load_weights_into(task, {"model": _saved(tmp_path, dict(other["model"].state_dict()))})
    assert _same(task, other)


def test_a_run_directory_stands_for_its_best_checkpoint(tmp_path: Path, trained: Task) -> None:
    with pytest.raises(
        InvalidValue, match=r"Invalid weights\.network=.*expected a run directory with checkpoints/best\.ckpt"
    ):
        load_weights_into(Task(), {"network": str(tmp_path)})
    (tmp_path / "checkpoints").mkdir()
    for name, task in (("last", Task()), ("best", trained)):
        torch.save({"state_dict": task.state_dict()}, tmp_path / "checkpoints" / f"{name}.ckpt")
    task = Task()
    load_weights_into(task, {"network": str(tmp_path)})
    assert _same(task.network, trained.network)
    best = {"network": str(tmp_path / "checkpoints" / "best.ckpt")}
    assert fingerprint_weights({"network": str(tmp_path)}) == fingerprint_weights(best)


def test_other_tensors_are_named_with_their_shapes_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = {**Task(width=5).state_dict(), "network.extra": torch.zeros(1)}
    del state["network.1.bias"]
    task = Task()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    with pytest.raises(ShapeMismatch) as caught:
        load_weights_into(task, {"network": _saved(tmp_path, state)})
    assert "'1.bias', 'extra', '0.bias (5,) instead of (3,)'" in str(caught.value)
    assert "vocabulary" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())


def test_weights_that_learned_the_codes_of_another_tokenizer_are_refused(tmp_path: Path, trained: Task) -> None:
    config = "data: {tokenizer: {checkpoint: /runs/a/best.ckpt}}"
    facts = {"tokenizer": "theirs", "config": config}
    file = _saved(tmp_path, {"state_dict": trained.state_dict(), "brainlab": facts})
    with pytest.raises(InvalidValue, match=r"tokenizer=file data\.tokenizer\.checkpoint=/runs/a/best\.ckpt"):
        load_weights_into(Task(), {"network": file}, codes="ours")
    for damaged in ("{", "data: 3", "a: ${oc.env:HOME}", None, 5):
        other = _saved(tmp_path, {"state_dict": trained.state_dict(), "brainlab": {**facts, "config": damaged}})
        with pytest.raises(InvalidValue, match=r"keep theirs: the data\.tokenizer of that run"):
            load_weights_into(Task(), {"network": other}, codes="ours")
    file = _saved(tmp_path, {"state_dict": trained.state_dict(), "brainlab": facts})
    for codes in ("theirs", None):
        load_weights_into(Task(), {"network": file}, codes=codes)
    old = _saved(tmp_path, {"state_dict": trained.state_dict(), "brainlab": {"config": config}})
    load_weights_into(Task(), {"network": old}, codes="ours")
