"""FlatGPT: order of tokens, ties of heads, what each arrangement may see, and how it goes on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.flat_gpt import FlatGPT, corrupted_spans
from brainlab.nn.sampling import Sampler

SITES, LEVELS, VOCAB = 3, 2, 11
SMALL = {"width": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_width": 40, "rope_theta": 100.0}
ARRANGEMENTS = ("flat", "levels", "mix", "channel")
GREEDY = Sampler("argmax")


def network(arrangement: str = "flat", **options) -> FlatGPT:
    torch.manual_seed(0)
    if arrangement in ("levels", "mix"):
        options = {"embedding_dim": 6, **options}
    model = FlatGPT(SITES, LEVELS, VOCAB, arrangement=arrangement, **{**SMALL, **options})
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def codes(n_frames: int, batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, n_frames, SITES, LEVELS), generator=torch.Generator().manual_seed(seed))


def draw(model, known, n_frames, **options):
    return model.generate(known, n_frames, Sampler("roulette"), torch.Generator().manual_seed(5), **options)


def test_targets_are_the_flat_order_one_token_later():
    known = codes(5)
    logits, targets = network()(known)
    assert torch.equal(targets, known.flatten(1)[:, 1:])
    assert logits.shape == (2, 29, VOCAB)


def test_head_of_a_level_is_the_table_of_the_next_level():
    model, known = network(), codes(4)
    logits, _ = model(known)
    tables = model.embedding.weight.view(LEVELS, VOCAB, -1)
    for place in range(logits.shape[1]):
        features = model._features(known)[:, place]
        assert torch.allclose(logits[:, place], features @ tables[(place + 1) % LEVELS].T, atol=1e-5)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("tie_heads", [True, False])
def test_loss_and_scores_are_those_of_the_logits(arrangement, tie_heads):
    model, known = network(arrangement, tie_heads=tie_heads), codes(6)
    logits, targets = model(known)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    assert torch.allclose(model.loss(known), nats.mean(), atol=1e-5)
    each, right = model.scores(known)
    assert torch.allclose(each, nats, atol=1e-5)
    assert torch.equal(right, logits.argmax(-1) == targets)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("n_frames", [5, 6])
def test_prediction_of_the_last_frames_is_the_end_of_all(arrangement, n_frames):
    model, known = network(arrangement), codes(n_frames)
    end, last = model.prediction(known, last_frames=3), known[:, -3:]
    assert torch.equal(end.targets, model._arranged(last))
    rows = model.scores(known)[0].view(end.targets.shape[0], -1)  # a sequence of the arrangement each
    assert torch.allclose(end.scores().nats, rows[:, -end.targets.shape[1] :], atol=1e-5)
    assert torch.allclose(end.loss(), end.scores().nats.mean(), atol=1e-5)
    assert torch.equal(end.frames(end.targets), last)
    whole = model.prediction(known)
    assert torch.equal(whole.frames(whole.targets), known[:, 1:])


@pytest.mark.parametrize("block", [2, 3, 6])
def test_a_block_predicts_that_many_tokens_ahead_from_nothing_later(block):
    model, known = network(block=block), codes(5)
    logits, targets = model(known)
    assert torch.equal(targets, known.flatten(1)[:, block:])
    changed = known.flatten(1).clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % VOCAB
    other, _ = model(changed.view(known.shape))
    assert torch.allclose(logits[:, :12], other[:, :12], atol=1e-5)  # places 0 … 11 read tokens 0 … 11
    assert not torch.allclose(logits[:, 12], other[:, 12], atol=1e-3)


def test_every_token_but_the_later_ones_counts():
    model, known = network(), codes(5)
    logits, _ = model(known)
    for token in (0, 7, 17):
        changed = known.flatten(1).clone()
        changed[:, token] = (changed[:, token] + 1) % VOCAB
        other, _ = model(changed.view(known.shape))
        moved = (logits - other).abs().amax(dim=(0, 2)) > 1e-5
        assert not moved[:token].any()
        assert moved[token:].all()


def test_channels_are_read_on_their_own_and_marked():
    model, known = network("channel"), codes(5)
    logits, targets = model(known)
    assert torch.equal(targets, known.transpose(1, 2).flatten(2)[:, :, 1:].flatten(1))
    changed = known.clone()
    changed[:, :, 1] = (changed[:, :, 1] + 1) % VOCAB
    moved = (logits - model(changed)[0]).abs().amax(dim=(0, 2)).view(SITES, -1) > 1e-5
    assert moved.any(dim=1).tolist() == [False, True, False]
    same = codes(5)
    same[:] = same[:, :, :1]
    each = model(same)[0].view(2, SITES, -1, VOCAB)
    assert not torch.allclose(each[:, 0], each[:, 1], atol=1e-3)


def test_mixed_frames_predict_the_next_frame_from_whole_frames():
    model, known = network("mix"), codes(5)
    logits, targets = model(known)
    assert torch.equal(targets, known[:, 1:].flatten(1))
    changed = known.clone()
    changed[:, 2, 1] = (changed[:, 2, 1] + 1) % VOCAB
    moved = (logits - model(changed)[0]).abs().amax(dim=(0, 2)).view(4, -1) > 1e-6
    assert moved.any(dim=1).tolist() == [False, False, True, True]


# ---- generation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("max_frames", [None, 8])
def test_generation_with_a_cache_is_generation_without(arrangement, max_frames):
    model, known = network(arrangement, site_embedding=True), codes(5)
    with_cache, without = (draw(model, known, 9, max_frames=max_frames, use_cache=use) for use in (True, False))
    assert with_cache.shape == (2, 9, SITES, LEVELS)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("block", [2, 6])
def test_blocks_are_drawn_together_and_equal_with_a_cache(block):
    model, known = network(block=block), codes(3)
    assert torch.equal(draw(model, known, 6), draw(model, known, 6, use_cache=False))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_greedy_generation_follows_the_logits_of_forward(arrangement):
    model, known = network(arrangement), codes(4)
    drawn = model.generate(known, 5, GREEDY)
    logits, targets = model(torch.cat([known, drawn], dim=1))
    sequences = SITES if arrangement == "channel" else 1
    chosen = logits.argmax(-1).view(2 * sequences, -1)
    n_new = drawn[0].numel() // sequences
    assert torch.equal(chosen[:, -n_new:], targets.view(2 * sequences, -1)[:, -n_new:])


def test_logits_of_a_cached_window_equal_those_of_the_whole():
    model, known = network(), codes(6)
    seen = []

    def spy(logits, level, generator):
        seen.append(logits)
        return logits.argmax(-1)

    drawn = model.generate(known, 3, spy)
    whole, _ = model(torch.cat([known, drawn], dim=1))
    assert (torch.cat(seen, dim=1) - whole[:, -18:]).abs().max() < 1e-4


def test_a_stream_is_the_full_context_until_the_window_is_full():
    model, known = network(), codes(4)
    assert torch.equal(draw(model, known, 6, max_frames=10), draw(model, known, 6))


def test_after_a_shift_the_kept_frames_are_all_the_network_knows():
    model, known = network(), codes(4)
    streamed = model.generate(known, 12, GREEDY, max_frames=8, shift=0.25)
    everything = torch.cat([known, streamed], dim=1)
    for first, last in ((8, 10), (10, 12), (12, 14), (14, 16)):  # every two frames the oldest two are dropped
        again = model.generate(everything[:, first - 6 : first], last - first, GREEDY)
        assert torch.equal(again, everything[:, first:last])


def test_a_shift_in_tokens_is_the_same_shift():
    model, known = network(), codes(4)
    assert torch.equal(
        draw(model, known, 12, max_frames=8, shift=0.25), draw(model, known, 12, max_frames=8, shift=2 * SITES * LEVELS)
    )


def test_every_window_is_read_in_once():
    model, lengths = network(), []
    model.decoder.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    draw(model, codes(4), 12, max_frames=8, shift=0.5)
    per_frame = SITES * LEVELS
    window = [4 * per_frame] + [1] * (4 * per_frame - 1)  # the last token of a window is never read
    assert lengths == window * 3


def test_a_context_longer_than_the_window_counts_with_its_end():
    model, known = network(), codes(12)
    assert torch.equal(draw(model, known, 2, max_frames=8), draw(model, known[:, -4:], 2, max_frames=8))


def test_rows_of_a_batch_do_not_touch_each_other():
    model, known = network(), codes(5, batch=3)
    together = model.generate(known, 4, GREEDY)
    assert torch.equal(together[1:2], model.generate(known[1:2], 4, GREEDY))


@pytest.mark.parametrize("shift", [0.0, 1.0, 7, 0, 8 * SITES * LEVELS, -0.5])
def test_a_shift_that_drops_nothing_everything_or_half_a_frame_is_refused(shift):
    with pytest.raises(InvalidValue, match="shift"):
        network().generate(codes(4), 12, GREEDY, max_frames=8, shift=shift)


def test_other_codes_and_empty_contexts_are_refused():
    model = network()
    with pytest.raises(ShapeMismatch, match="3 sites, 2 levels"):
        model(torch.zeros(1, 4, 2, 2, dtype=torch.long))
    with pytest.raises(ShapeMismatch, match="at least one frame"):
        model.generate(codes(0), 3, GREEDY)
    with pytest.raises(ShapeMismatch, match="at least two frames"):
        network(block=6).loss(codes(1))
    with pytest.raises(InvalidValue, match="block"):
        network(block=4)
    with pytest.raises(InvalidValue, match="arrangement"):
        network("spiral")


# ---- corruption ------------------------------------------------------------------------------------------------------


def test_hidden_codes_change_the_training_loss_alone():
    model, known, bare = network(embedding_corruption=[0.9]), codes(6), network()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("hidden")})
    plain = bare.loss(known)
    assert torch.allclose(model.loss(known), plain, atol=1e-6)
    model.train()
    assert not torch.allclose(model.loss(known), plain, atol=1e-3)
    assert torch.equal(model.generate(known, 2, GREEDY), bare.generate(known, 2, GREEDY))
    assert model.training


def test_spans_cover_half_of_the_levels_for_two_to_eight_frames():
    torch.manual_seed(0)
    hidden = corrupted_spans((200, 64, 3, 4), [0.0])
    levels = hidden.any(dim=1).any(dim=1).sum(dim=1)
    assert set(levels.tolist()) == {2}
    frames = hidden.any(dim=3).any(dim=2).sum(dim=1)
    assert frames.min() >= 1  # a span may begin in the last frame
    assert frames.max() == 8
    assert corrupted_spans((4, 256, 1, 2), [0.0]).any(dim=3).any(dim=2).sum(dim=1).max() > 8
    chances = corrupted_spans((200, 640, 1, 2), [0.0, 0.4]).float().mean(dim=(0, 1, 2))
    assert chances[0] < 0.05 < 0.35 < chances[1]


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_paper_size_has_the_parameters_of_a_hand_count():
    with torch.device("meta"):
        model = FlatGPT(4, 4, 16384, head_dim=120, rope_sections=[20, 20, 20])
    attention = 1200 * (10 + 2 * 2) * 120 + (10 + 2 * 2) * 120 + 10 * 120 * 1200
    layer = attention + 3 * 1200 * 4560 + 2 * 1200
    assert sum(p.numel() for p in model.parameters()) == 4 * 16384 * 1200 + 12 * layer + 1200
    known = torch.zeros(1, 256, 4, 4, dtype=torch.long, device="meta")
    assert model._arranged(known).shape == (1, 4096)
    cache = model.cache(1, 1536)
    assert cache.n_bytes == 12 * 2 * 2 * 120 * 24_576 * 4


def test_untrained_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = FlatGPT(SITES, LEVELS, VOCAB, **SMALL)
    assert model.loss(codes(20)).item() == pytest.approx(math.log(VOCAB), abs=0.05)


def test_codes_that_stand_for_like_signals_start_with_like_embeddings():
    network = FlatGPT(n_sites=2, n_levels=2, vocab_size=32, width=24, n_layers=1, n_heads=2, n_kv_heads=1, ffn_width=32)
    vectors = (
        torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.1])[:, None, None]
    )
    state = torch.random.get_rng_state()
    assert network.start_from(vectors)
    assert torch.equal(torch.random.get_rng_state(), state), "the start draws nothing from torch's own generator"
    tables = network.embedding.weight.detach().view(2, 32, 24)
    for table, codes in zip(tables, vectors, strict=True):
        ours, theirs = torch.cdist(table, table).flatten(), torch.cdist(codes, codes).flatten()
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.9
        assert 0.01 < float(table.std()) < 0.04


def test_a_start_never_overwrites_weights_that_were_loaded():
    sizes = {"n_sites": 2, "n_levels": 2, "vocab_size": 8, "width": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1}
    trained, network = FlatGPT(**sizes, ffn_width=16), FlatGPT(**sizes, ffn_width=16)
    network.load_state_dict(trained.state_dict())
    assert not network.start_from(torch.randn(2, 8, 4))
    assert torch.equal(network.embedding.weight, trained.embedding.weight)
    network = FlatGPT(**sizes, ffn_width=16)
    network.decoder.load_state_dict(trained.decoder.state_dict())
    assert network.start_from(torch.randn(2, 8, 4)), "the embedding itself is as it was"
    network.embedding.load_state_dict(trained.embedding.state_dict())
    assert not network.start_from(torch.randn(2, 8, 4))


def test_a_start_from_other_codes_is_refused():
    network = FlatGPT(n_sites=2, n_levels=2, vocab_size=8, width=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_width=16)
    with pytest.raises(ShapeMismatch, match="vectors"):
        network.start_from(torch.randn(3, 8, 4))
