"""Vector quantisers: nearest codes, learning by moving averages, revival, and nothing learned in evaluation."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.quantise import ResidualVectorQuantiser, VectorQuantiser, nearest_codes, rotate_onto


def _blobs(n: int, centres: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(n) % len(centres)
    return centres[which] + 0.01 * torch.randn(n, centres.shape[1], generator=generator)


@pytest.mark.parametrize("block", [1, 37, 1 << 20])
def test_blocks_of_any_size_find_the_nearest_codes(block):
    x, codebook = torch.randn(50, 7), torch.randn(33, 7)
    assert torch.equal(nearest_codes(x, codebook, block), torch.cdist(x, codebook).argmin(dim=1))
    assert nearest_codes(x[:0], codebook).shape == (0,)


def test_the_rotation_gives_the_code_and_turns_the_gradient_with_it():
    x = torch.randn(20, 5, dtype=torch.double, requires_grad=True)
    target = torch.randn(20, 5, dtype=torch.double)
    out = rotate_onto(x, target)
    assert torch.equal(out, target)
    upstream = torch.randn(20, 5, dtype=torch.double)
    (gradient,) = torch.autograd.grad(out, x, upstream)
    ratio = target.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), upstream.norm(dim=1) * ratio)
    # The angle between vector and gradient is what a rotation keeps.
    torch.testing.assert_close(F.cosine_similarity(gradient, x), F.cosine_similarity(upstream, target))


def test_a_vector_without_length_gets_a_finite_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotate_onto(x, torch.ones(1, 4)).sum(), x)
    assert torch.equal(gradient, torch.ones(1, 4))


def test_evaluation_changes_no_buffer():
    quantiser = ResidualVectorQuantiser(4, 8, 2).eval()
    before = copy.deepcopy(quantiser.state_dict())
    quantiser(100 + torch.randn(64, 4))
    quantiser.encode(torch.randn(64, 4))
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())


def test_the_first_training_batch_starts_the_codes_where_the_data_are():
    centres = 10 * torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    quantiser = VectorQuantiser(4, 32, kmeans_iterations=10).train()
    found = quantiser(_blobs(512, centres))
    assert bool(quantiser.ready)
    assert float((found.values - _blobs(512, centres)).abs().max()) < 0.2
    assert set(quantiser.encode(centres)[:, 0].tolist()).isdisjoint({-1})


def test_a_dead_far_code_moves_into_the_data_in_one_step():
    quantiser = VectorQuantiser(3, 4, kmeans_iterations=0).train()
    quantiser.codebooks[0] = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [900.0, 900, 900]])
    quantiser.cluster_sum.copy_(quantiser.codebooks * 2)
    x = torch.rand(64, 3)
    quantiser(x)
    moved = quantiser.codebooks[0, 3]
    assert bool((x == moved).all(dim=1).any())
    assert float(quantiser.cluster_size[0, 3]) == 2.0
    assert torch.equal(quantiser.cluster_sum[0, 3], 2 * moved)
    # The revived code stays where it is put: the averages do not pull it back.
    quantiser.dead_below = 0.0
    quantiser(x)
    assert float(quantiser.codebooks[0, 3].abs().max()) < 2


def test_a_code_in_use_follows_its_vectors():
    quantiser = VectorQuantiser(2, 2, kmeans_iterations=0, dead_below=0.0).train()
    quantiser.codebooks[0] = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    quantiser.cluster_sum.copy_(quantiser.codebooks)
    quantiser.cluster_size.fill_(1.0)
    x = torch.cat([torch.full((50, 2), 3.0), torch.full((50, 2), -2.0)])
    for _ in range(600):
        quantiser(x)
    torch.testing.assert_close(quantiser.codebooks[0], torch.tensor([[-2.0, -2.0], [3.0, 3.0]]), atol=0.02, rtol=0)


def test_more_codes_than_vectors_is_no_error():
    quantiser = ResidualVectorQuantiser(4, 100, 2).train()
    found = quantiser(torch.randn(10, 4))
    assert bool(torch.isfinite(found.values).all())
    assert bool(torch.isfinite(quantiser.codebooks).all())


@pytest.mark.parametrize("kmeans_iterations", [0, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_teach_the_codebooks_nothing(kmeans_iterations, bad):
    settings = {"kmeans_iterations": kmeans_iterations, "dead_below": 0.5}
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    clean, dirty = (ResidualVectorQuantiser(4, 6, 2, **settings).train() for _ in range(2))
    dirty.load_state_dict(clean.state_dict())
    for start in (0, 20):  # the first batch and a later one
        good = x[start : start + 20]
        spoiled = torch.cat([good[:7], torch.full((1, 4), bad), good[7:], torch.tensor([[0.0, bad, 0.0, 0.0]])])
        expected, found = clean(good), dirty(spoiled)
        assert torch.equal(torch.cat([found.codes[:7], found.codes[8:-1]]), expected.codes)
    for name, value in clean.state_dict().items():
        torch.testing.assert_close(dirty.state_dict()[name], value, msg=name)


def test_a_batch_without_a_finite_vector_is_refused_where_codes_need_one():
    quantiser = VectorQuantiser(4, 8).train()
    with pytest.raises(InvalidValue, match="latents=not finite: expected a batch with finite vectors"):
        quantiser(torch.full((10, 4), float("nan")))
    assert not bool(quantiser.ready)
    assert bool(torch.isfinite(quantiser.codebooks).all())


def test_levels_make_the_error_smaller_and_decode_adds_them_up():
    torch.manual_seed(0)
    x = torch.randn(6, 40, 8)
    quantiser = ResidualVectorQuantiser(8, 32, 4, codebook_dim=5).train()
    for _ in range(20):
        quantiser(x)
    quantiser.eval().requires_grad_(False)
    codes = quantiser.encode(x)
    assert codes.shape == (6, 40, 4)
    projected = quantiser.project_in(x).detach()
    quantiser.project_out = torch.nn.Identity()
    errors = [float((quantiser.decode(codes[..., :n]) - projected).square().mean()) for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(quantiser.decode(codes), quantiser(x).values, atol=1e-5, rtol=0)


def test_gradients_reach_the_input_through_the_codes_and_the_commitment():
    for rotation in (True, False):
        quantiser = ResidualVectorQuantiser(4, 8, 2, rotation=rotation).train()
        x = torch.randn(30, 4, requires_grad=True)
        found = quantiser(x)
        (through,) = torch.autograd.grad(found.values.sum(), x, retain_graph=True)
        (pull,) = torch.autograd.grad(found.commit, x)
        assert float(through.abs().min()) > 0 if not rotation else bool(through.any())
        assert bool(pull.any())


def test_a_resumed_training_goes_on_with_the_same_codes():
    batches = [torch.randn(40, 4, generator=torch.Generator().manual_seed(step)) for step in range(12)]
    whole = ResidualVectorQuantiser(4, 64, 2, seed=5).train()  # more codes than are in use: revival at every step
    for x in batches:
        whole(x)
    first = ResidualVectorQuantiser(4, 64, 2, seed=5).train()
    for x in batches[:6]:
        first(x)
    second = ResidualVectorQuantiser(4, 64, 2, seed=5).train()
    second.load_state_dict(first.state_dict())
    torch.rand(3)  # what else draws must not matter
    for x in batches[6:]:
        second(x)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in second.state_dict().items())


def test_half_precision_training_keeps_codebooks_exact():
    quantiser = ResidualVectorQuantiser(4, 8, 2).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantiser(torch.randn(30, 4))
    assert quantiser.codebooks.dtype == torch.float32
    assert bool(torch.isfinite(found.values).all())


@pytest.mark.parametrize(
    ("settings", "name"), [({"n_codes": 0}, "codebook_size"), ({"decay": 1.0}, "decay"), ({"dead_below": -1}, "dead")]
)
def test_impossible_settings_are_refused(settings, name):
    with pytest.raises(InvalidValue, match=name):
        ResidualVectorQuantiser(**{"dim": 4, "n_codes": 8, **settings})


def test_wrong_widths_and_levels_are_refused():
    quantiser = ResidualVectorQuantiser(4, 8, 2)
    with pytest.raises(ShapeMismatch, match="4 numbers"):
        quantiser(torch.randn(3, 5))
    with pytest.raises(ShapeMismatch, match="2 levels"):
        quantiser.decode(torch.zeros(3, 3, dtype=torch.long))


PROCESS = """
import sys, torch, torch.distributed as dist
from brainlab.nn.quantise import ResidualVectorQuantiser
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
quantiser = ResidualVectorQuantiser(3, 24, 2, seed=1).train()
for step in range(5):
    x = torch.randn(31, 3, generator=torch.Generator().manual_seed(step))
    quantiser(x.split([20, 11])[rank])
torch.save(quantiser.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()  # a process that ends inside its group may abort
"""


def test_processes_that_share_a_batch_learn_the_codebooks_of_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)]
    torch.manual_seed(0)
    alone = ResidualVectorQuantiser(3, 24, 2, seed=1).train()
    for step in range(5):
        alone(torch.randn(31, 3, generator=torch.Generator().manual_seed(step)))
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)
