"""What every network promises: builds without memory, gives gradients everywhere, and survives a round trip."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch

from brainlab.models.braintokmix import BrainTokMix
from brainlab.models.cbramod import CBraMod
from brainlab.models.flat_gpt import FlatGPT
from brainlab.models.mu_law import MuLaw
from brainlab.models.pooling_heads import AttentionHead, FlattenHead, MultiTokenHead
from brainlab.models.wavenet import WaveNet
from brainlab.nn.sampling import Sampler
from brainlab.tasks.forecasting import Forecasting
from brainlab.types import Forecaster, Tokenizer

SIZES = {"n_channels": 7, "n_patches": 2, "embed_dim": 24}
NETWORKS = {
    "cbramod": (lambda: CBraMod(n_layer=2), (2, 7, 3, 200)),
    "cbramod, one patch": (lambda: CBraMod(n_layer=2), (2, 7, 1, 200)),
    "flatten head": (lambda: FlattenHead(**SIZES), (2, 7, 2, 200)),
    "attention head": (lambda: AttentionHead(**SIZES), (2, 7, 2, 200)),
    "multi-token head": (lambda: MultiTokenHead(**SIZES), (2, 7, 2, 200)),
}


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def network(request):
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    return build, torch.randn(shape)


def test_network_builds_without_memory(network):
    build, _ = network
    with torch.device("meta"):
        module = build()
    assert all(parameter.is_meta for parameter in module.parameters())


def test_every_trainable_parameter_gets_a_finite_gradient(network):
    build, x = network
    module = build()
    module(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_saved_weights_give_the_same_numbers(network, tmp_path):
    build, x = network
    module = build().eval()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = build().eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(module(x), other(x))


def test_evaluation_does_not_depend_on_the_batch(network):
    build, x = network
    module = build().eval()
    with torch.no_grad():
        assert torch.allclose(module(x)[:1], module(x[:1]), atol=1e-5)


def test_half_precision_autocast_stays_close(network):
    build, x = network
    module = build().eval()
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module(x).float()
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99


# ---- networks on codes -----------------------------------------------------------------------------------------------

GPT = functools.partial(FlatGPT, width=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_width=32)
TOKEN_NETWORKS = {
    "flat gpt": functools.partial(GPT, site_embedding=True),
    "flat gpt, own heads": functools.partial(GPT, tie_heads=False, dropout=0.1),
    "levels gpt": functools.partial(GPT, arrangement="levels", embedding_dim=8),
    "mix gpt": functools.partial(GPT, arrangement="mix", embedding_dim=8),
    "channel gpt": functools.partial(GPT, arrangement="channel"),
    "wavenet": functools.partial(WaveNet, dilations=[1, 2, 4], width=12, site_dim=4),
}
CONVOLUTIONS = {"ratios": [2, 2], "n_filters": 4, "n_dim": 16, "n_neuro": 2, "kmeans_iterations": 0}
TOKENIZERS = {
    "mu-law": lambda: MuLaw(3, bits=4),
    "braintokmix": lambda: BrainTokMix(3, **CONVOLUTIONS, codebook_size=12, n_levels=2),
    "braintokmix, scalar": lambda: BrainTokMix(3, **CONVOLUTIONS, fsq_levels=[3, 3], n_levels=2),
}


def sized(build, tokenizer):
    torch.manual_seed(0)
    return build(n_sites=tokenizer.n_sites, n_levels=tokenizer.n_levels, vocab_size=tokenizer.vocab_size)


@pytest.fixture(params=TOKENIZERS, ids=list(TOKENIZERS))
def tokenizer(request):
    torch.manual_seed(0)
    made = TOKENIZERS[request.param]()
    return made.eval() if isinstance(made, torch.nn.Module) else made


@pytest.fixture(params=TOKEN_NETWORKS, ids=list(TOKEN_NETWORKS))
def build_tokens(request):
    return TOKEN_NETWORKS[request.param]


def test_token_network_reads_predicts_and_continues_the_codes_of_every_tokenizer(build_tokens, tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    signal = torch.randn(2, 3, 10 * tokenizer.hop)
    codes = tokenizer.encode(signal)
    assert codes.shape == (2, 10, tokenizer.n_sites, tokenizer.n_levels)
    assert tokenizer.decode(codes).shape == signal.shape
    module = sized(build_tokens, tokenizer).eval()
    assert module.tokens_per_frame == tokenizer.n_sites * tokenizer.n_levels

    logits, targets = module(codes)
    assert logits.shape == (*targets.shape, tokenizer.vocab_size)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert torch.allclose(module.loss(codes), loss, atol=1e-4)

    drawn = module.generate(codes, 7, Sampler("top_p"), torch.Generator().manual_seed(0), max_frames=12)
    assert drawn.shape == (2, 7, tokenizer.n_sites, tokenizer.n_levels)
    assert drawn.dtype == torch.int64
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < tokenizer.vocab_size


def test_forecast_of_every_pair_has_the_steps_asked_for_and_repeats_with_its_seed(build_tokens, tokenizer):
    sizes = {"n_sites": tokenizer.n_sites, "n_levels": tokenizer.n_levels, "vocab_size": tokenizer.vocab_size}
    torch.manual_seed(0)
    task = Forecasting(network=build_tokens, **sizes, n_frames=8)
    forecaster = task.forecaster(SimpleNamespace(tokenizer=tokenizer))
    assert isinstance(forecaster, Forecaster)
    context = torch.randn(2, 3, 5 * tokenizer.hop + tokenizer.hop // 2)
    one, two = (
        forecaster.forecast(context, 9 * tokenizer.hop - 1, Sampler("roulette"), torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert one.shape == (2, 3, 9 * tokenizer.hop - 1)
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)


def test_token_network_trains_every_parameter_and_survives_a_round_trip(build_tokens, tmp_path):
    codes = torch.randint(9, (2, 6, 2, 2), generator=torch.Generator().manual_seed(0))
    module = build_tokens(n_sites=2, n_levels=2, vocab_size=9)
    module.loss(codes).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = build_tokens(n_sites=2, n_levels=2, vocab_size=9).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    with torch.no_grad():
        logits = module.eval()(codes)[0]
        assert torch.equal(logits, other(codes)[0])
        assert torch.allclose(logits[:1], other(codes[:1])[0], atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module(codes)[0].float()
    assert torch.nn.functional.cosine_similarity(logits.flatten(), rough.flatten(), dim=0) > 0.99


def test_token_network_builds_without_memory(build_tokens):
    with torch.device("meta"):
        module = build_tokens(n_sites=2, n_levels=2, vocab_size=9)
    assert all(parameter.is_meta for parameter in module.parameters())
    codes = torch.zeros(2, 6, 2, 2, dtype=torch.long, device="meta")
    assert module.loss(codes).shape == ()
