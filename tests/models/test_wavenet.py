"""WaveNet: causal, blind beyond its receptive field, and fast generation that equals reading everything again."""

from __future__ import annotations

import math

import pytest
import torch

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.wavenet import WaveNet
from brainlab.nn.sampling import Sampler

SMALL = {"dilations": [1, 2, 4], "width": 8, "site_dim": 4}


def build(n_sites=2, n_levels=1, vocab_size=11, **options):
    torch.manual_seed(0)
    return WaveNet(n_sites, n_levels, vocab_size, **(SMALL | options)).eval()


def codes_of(network, batch=2, n_frames=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, n_frames, network.n_sites, network.n_levels)
    return torch.randint(network.vocab_size, shape, generator=generator)


def logits_by_frame(network, codes, **options):
    logits, targets = network(codes, **options)
    assert torch.equal(targets, codes[:, 1:].flatten(1))
    return logits.unflatten(1, (codes.shape[1] - 1, network.n_sites, network.n_levels))


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("n_levels", [1, 3])
def test_prediction_sees_its_receptive_field_and_nothing_else(kernel, n_levels):
    network = build(kernel=kernel, n_levels=n_levels)
    assert network.receptive_field == 1 + (kernel - 1) * 7
    codes = codes_of(network, n_frames=30)
    changed = codes.clone()
    at = 6
    changed[:, at] = (changed[:, at] + 1) % network.vocab_size
    difference = (logits_by_frame(network, codes) - logits_by_frame(network, changed)).abs().amax(dim=(0, 2, 3, 4))
    # Frame t + 1 is predicted at index t, from frames t − receptive_field + 1 … t.
    (touched,) = torch.nonzero(difference > 0, as_tuple=True)
    assert touched.tolist() == list(range(at, at + network.receptive_field))


def test_a_site_is_predicted_from_itself_and_its_own_embedding():
    network = build(n_sites=3)
    codes = codes_of(network)
    codes[:, :, 1] = codes[:, :, 0]
    logits = logits_by_frame(network, codes)
    assert not torch.allclose(logits[:, :, 0], logits[:, :, 1])
    other = codes.clone()
    other[:, :, 2] = (other[:, :, 2] + 3) % network.vocab_size
    assert torch.equal(logits_by_frame(network, other)[:, :, :2], logits[:, :, :2])


@pytest.mark.parametrize("options", [{}, {"kernel": 3}, {"n_levels": 2}, {"n_classes": 3}])
@pytest.mark.parametrize("n_known", [1, 4, 23])
def test_cached_generation_equals_reading_everything_again(options, n_known):
    network = build(**options)
    codes = codes_of(network, n_frames=n_known)
    extra = {}
    if network.n_classes:
        extra["condition"] = torch.randint(3, (2, n_known + 30), generator=torch.Generator().manual_seed(3))
    fast, slow = (
        network.generate(codes, 30, Sampler("roulette"), torch.Generator().manual_seed(5), use_cache=use_cache, **extra)
        for use_cache in (True, False)
    )
    assert torch.equal(fast, slow)
    greedy = network.generate(codes, 30, Sampler("argmax"), **extra)
    everything = torch.cat([codes, greedy], dim=1)
    logits = logits_by_frame(network, everything, **extra)
    assert torch.equal(logits[:, n_known - 1 :].argmax(dim=-1), greedy)


def test_stream_goes_on_beyond_the_window_as_with_the_full_context():
    network = build()
    codes = codes_of(network, n_frames=40)
    whole = network.generate(codes, 50, Sampler("argmax"))
    short = network.generate(codes, 50, Sampler("argmax"), max_frames=network.receptive_field)
    assert torch.equal(whole, short)
    first, second = (network.generate(codes, 25, Sampler("argmax")) for _ in range(2))
    assert torch.equal(first, second)
    then = network.generate(torch.cat([codes, first], dim=1), 25, Sampler("argmax"))
    assert torch.equal(torch.cat([first, then], dim=1), whole)


def test_class_of_a_frame_changes_its_prediction_and_later_ones_only():
    network = build(n_classes=2)
    codes = codes_of(network)
    nothing = torch.zeros(2, 20, dtype=torch.long)
    stimulus = nothing.clone()
    stimulus[:, 9] = 1
    difference = logits_by_frame(network, codes, condition=nothing) - logits_by_frame(
        network, codes, condition=stimulus
    )
    touched = difference.abs().amax(dim=(0, 2, 3, 4)) > 0
    assert not touched[:8].any()
    assert touched[8]


def test_classes_may_have_an_axis_of_one_channel():
    network = build(n_classes=3)
    codes = codes_of(network)
    classes = torch.randint(3, (2, 30), generator=torch.Generator().manual_seed(1))
    read = classes[:, :20]
    assert torch.equal(network(codes, condition=read[:, None])[0], network(codes, condition=read)[0])
    assert torch.equal(network.loss(codes, condition=read[:, None]), network.loss(codes, condition=read))
    assert torch.equal(network.scores(codes, read[:, None])[0], network.scores(codes, read)[0])
    both = [
        network.generate(codes, 10, Sampler("argmax"), condition=x, max_frames=15) for x in (classes, classes[:, None])
    ]
    assert torch.equal(*both)
    with pytest.raises(ShapeMismatch, match=r"condition.*\(2, 20\) or \(2, 1, 20\)"):
        network(codes, condition=read[:, None].expand(-1, 2, -1))


def test_loss_is_the_mean_cross_entropy_and_scores_are_its_parts():
    network = build(n_levels=2)
    codes = codes_of(network)
    logits, targets = network(codes)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    nats, right = network.scores(codes)
    assert torch.allclose(network.loss(codes), expected.mean(), atol=1e-5)
    assert torch.allclose(nats.flatten(), expected, atol=1e-5)
    assert torch.equal(right, logits.argmax(dim=-1) == targets)
    corrupted = (codes + 1) % network.vocab_size
    assert not torch.allclose(network.loss(codes, corrupted), network.loss(codes))


def test_prediction_of_the_last_frames_is_the_end_of_all():
    network = build(n_levels=2)
    codes = codes_of(network)
    whole, end = network.prediction(codes), network.prediction(codes, last_frames=8)
    assert torch.equal(end.targets, codes[:, 12:])
    assert torch.allclose(end.scores().nats, whole.scores().nats[:, -8:], atol=1e-5)
    assert torch.allclose(end.expected(), whole.expected()[:, -8:], atol=1e-5)
    logits = logits_by_frame(network, codes)
    assert torch.allclose(whole.expected(), logits.softmax(dim=-1) @ torch.arange(11.0), atol=1e-5)


def test_learns_a_rhythm_that_its_memory_spans():
    network = build(vocab_size=5).train()
    period = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1])
    codes = torch.stack([period.repeat(6), period.roll(3).repeat(6)], dim=1)[None, :, :, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        network.loss(codes).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        assert float(network.loss(codes)) < 0.2 * math.log(5)
    continued = network.generate(codes[:, :16], 16, Sampler("argmax"))
    assert torch.equal(continued, codes[:, 16:32])


def test_neighbouring_codes_start_alike():
    table = build(n_levels=2, vocab_size=64, width=9).embedding.weight.detach().view(2, 64, 9)
    steps = (table[:, 1:] - table[:, :-1]).norm(dim=-1)
    assert steps.max() < 0.2 * (table[:, 32:] - table[:, :32]).norm(dim=-1).min()
    assert torch.unique(table[0], dim=0).shape == (64, 9)


def test_generation_keeps_the_mode_of_the_network():
    network = build().train()
    network.generate(codes_of(network), 2, Sampler("argmax"))
    assert network.training


def test_bad_sizes_and_codes_are_one_sentence():
    with pytest.raises(InvalidValue, match="dilations"):
        build(dilations=[])
    with pytest.raises(InvalidValue, match="kernel"):
        build(kernel=1)
    with pytest.raises(InvalidValue, match="n_sites"):
        build(n_sites=0)
    network = build()
    with pytest.raises(ShapeMismatch, match="codes"):
        network(torch.zeros(1, 5, 3, 1, dtype=torch.long))
    with pytest.raises(ShapeMismatch, match="two frames"):
        network(torch.zeros(1, 1, 2, 1, dtype=torch.long))
    with pytest.raises(InvalidValue, match="n_classes=0"):
        network(torch.zeros(1, 5, 2, 1, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ShapeMismatch, match="condition"):
        build(n_classes=2)(torch.zeros(1, 5, 2, 1, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ShapeMismatch, match="at least one frame"):
        network.generate(torch.zeros(1, 0, 2, 1, dtype=torch.long), 3, Sampler("argmax"))
