"""Training on codes, corruption of what is read, and forecasts of signals through a tokenizer."""

from __future__ import annotations

import functools
import logging
import math
import subprocess
import sys
import warnings
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.models.flat_gpt import FlatGPT
from brainlab.models.mu_law import MuLaw
from brainlab.models.wavenet import WaveNet
from brainlab.nn.sampling import Sampler
from brainlab.tasks.forecasting import Forecasting, TokenCorruption
from brainlab.tasks.optim import build_scheduler, decay_groups, warmup_then
from brainlab.types import Forecaster, Tokenizer

SITES, LEVELS, VOCAB, FRAMES = 2, 2, 8, 12
NETWORK = functools.partial(FlatGPT, width=32, n_layers=2, n_heads=2, n_kv_heads=1, ffn_width=64, site_embedding=True)


def task(network=NETWORK, **options) -> Forecasting:
    torch.manual_seed(0)
    sizes = {"n_sites": SITES, "n_levels": LEVELS, "vocab_size": VOCAB, "n_frames": FRAMES}
    return Forecasting(network=network, **{**sizes, **options})


def walk(n: int, n_frames: int = FRAMES, p: float = 0.9, seed: int = 0) -> torch.Tensor:
    """Every code goes one up with probability p, else anywhere."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(VOCAB, (n, n_frames, SITES, LEVELS), generator=generator)
    up = torch.rand(codes.shape, generator=generator) < p
    for t in range(1, n_frames):
        codes[:, t] = torch.where(up[:, t], (codes[:, t - 1] + 1) % VOCAB, codes[:, t])
    return codes


class Codes(torch.utils.data.Dataset):
    def __init__(self, codes: torch.Tensor) -> None:
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"codes": self.codes[index].to(torch.int32), "index": torch.tensor(index)}


class Remember(pl.Callback):
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(module: Forecasting, n: int = 256, batch: int = 16, epochs: int = 1) -> tuple[list[dict[str, float]], dict]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    remember = Remember()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[remember],
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, log_every_n_steps=1,
            num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(
            module, DataLoader(Codes(walk(n)), batch_size=batch), DataLoader(Codes(walk(64, seed=1)), batch_size=24)
        )
    return remember.logged, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_training_approaches_the_entropy_of_a_planted_chain():
    module = task(lr=1e-2, warmup_steps=10)
    logged, final = fit(module, n=640, batch=16, epochs=4)
    p = 0.9 + 0.1 / VOCAB
    entropy = -p * math.log(p) - (1 - p) * math.log((1 - p) / (VOCAB - 1))
    floor = ((FRAMES - 1) * entropy + 0.75 * math.log(VOCAB)) / (FRAMES - 0.25)  # the first frame is guessed
    assert floor - 0.05 < final["val/loss"] < floor + 0.15
    assert final["val/bits_per_token"] == pytest.approx(final["val/loss"] / math.log(2), rel=1e-5)
    assert final["val/accuracy"] == pytest.approx(p * (FRAMES - 1) / FRAMES, abs=0.06)
    known, generator = walk(64, 4, seed=2), torch.Generator().manual_seed(0)
    drawn = module.network.generate(known, FRAMES - 4, Sampler("roulette"), generator)
    steps = (drawn[:, 1:] - drawn[:, :-1]) % VOCAB == 1
    assert steps.float().mean() == pytest.approx(p, abs=0.08)
    assert {"train/loss", "train/lr", "train/grad_norm", "train/clipped", "train/tokens_per_s"} <= set(logged[-1])
    assert {"train/weight_decay", "train/step_s"} <= set(logged[-1])
    assert final["train/weight_decay"] == pytest.approx(0.1)
    assert ["train/step_s" in entry for entry in logged[:2]] == [False, True]
    assert logged[-1]["train/step_s"] > 0


def test_validation_loss_is_the_mean_over_tokens_of_all_windows():
    module = task()
    _, final = fit(module, n=16)
    nats, right = module.scores(walk(64, seed=1))
    assert final["val/loss"] == pytest.approx(nats.mean().item(), rel=1e-4)
    assert final["val/accuracy"] == pytest.approx(right.float().mean().item(), rel=1e-4)


class Plain(nn.Module):
    """A network that knows no chunks: the logits of FlatGPT, all at once."""

    def __init__(self, **sizes) -> None:
        super().__init__()
        self.inner = NETWORK(**sizes)

    def forward(self, codes, inputs=None):
        assert inputs is None
        return self.inner(codes)

    def loss(self, codes):
        raise AssertionError("options need the logits")


def frames_of_positions(n_frames: int) -> torch.Tensor:
    """The frame of every position that FlatGPT predicts: all but the first."""
    return torch.arange(n_frames).repeat_interleave(SITES * LEVELS)[1:]


@pytest.mark.parametrize("network", [NETWORK, Plain], ids=["chunks", "plain logits"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("half_window", "n_frames", "first"), [(False, 8, 0), (True, 8, 4), (True, 7, 4)])
def test_training_counts_smoothed_labels_of_the_frames_that_count(network, smoothing, half_window, n_frames, first):
    module = task(network, label_smoothing=smoothing, half_window=half_window)
    if not (smoothing or half_window):
        module._plain = False  # the road that options take
    codes = walk(5, n_frames)
    logits, targets = module(codes)
    counted = frames_of_positions(n_frames) >= first
    wanted = nn.functional.cross_entropy(
        logits[:, counted].flatten(0, 1), targets[:, counted].flatten(), label_smoothing=smoothing
    )
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    found = module.training_step({"codes": codes}, 0)
    assert torch.allclose(found, wanted, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(x, list(module.parameters())) for x in (found, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def judged(module: Forecasting, codes: torch.Tensor) -> dict[str, float]:
    values: dict[str, float] = {}
    module.log = lambda name, value, **_: values.__setitem__(name, float(value))  # type: ignore[method-assign]
    module.log_dict = lambda named, **_: values.update({k: float(v) for k, v in named.items()})  # type: ignore[method-assign]
    module.eval().test_step({"codes": codes}, 0)
    return values


@pytest.mark.parametrize("network", [NETWORK, Plain], ids=["chunks", "plain logits"])
@pytest.mark.parametrize("half_window", [False, True])
def test_metrics_are_of_the_codes_that_count_and_know_no_smoothing(network, half_window):
    module, codes = task(network, half_window=half_window, label_smoothing=0.3), walk(16, 8)
    found = judged(module, codes)
    counted = frames_of_positions(8) >= (4 if half_window else 0)
    logits, targets = (x[:, counted].flatten(0, 1) for x in module(codes))
    assert found["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert found["test/accuracy"] == pytest.approx((logits.argmax(-1) == targets).float().mean().item())
    above = (logits > logits.gather(1, targets[:, None])).sum(dim=1)
    assert found["test/top5_accuracy"] == pytest.approx((above < 5).float().mean().item())
    assert found["test/accuracy"] < found["test/top5_accuracy"] < 1
    assert "test/mse" not in found


WAVENET = functools.partial(WaveNet, dilations=[1, 2], width=8, site_dim=4)


def of_samples(tokenizer, network=WAVENET, sfreq_hz: float = 64.0, **options) -> Forecasting:
    """A task of mu-law codes of two channels that has met its data."""
    sizes = {"n_sites": tokenizer.n_sites, "n_levels": tokenizer.n_levels, "vocab_size": tokenizer.vocab_size}
    module = task(network, **{**sizes, **options})
    data = SimpleNamespace(tokenizer=tokenizer, sfreq_hz=sfreq_hz)
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    module.setup("fit")
    return module


def sample_codes(tokenizer, n_time: int = 300) -> torch.Tensor:
    signal = torch.randn(3, 2, n_time, generator=torch.Generator().manual_seed(4)).cumsum(dim=-1) / 10
    return tokenizer.encode(signal)


def test_mu_law_codes_are_judged_as_samples_too():
    tokenizer = MuLaw(2, bits=6)
    module, codes = of_samples(tokenizer), sample_codes(tokenizer)
    likeliest = module(codes)[0].argmax(dim=-1)

    def decoded(x: torch.Tensor) -> torch.Tensor:
        y = 2 * x / 63 - 1
        return y.sign() * (64 ** y.abs() - 1) / 63

    wanted = (decoded(likeliest) - decoded(codes[:, 1:].flatten(1))).square().mean().item()
    assert judged(module, codes)["test/mse"] == pytest.approx(wanted, rel=1e-4)
    assert "test/mse" not in judged(of_samples(Steps()), walk(4))


class PlainWaveNet(nn.Module):
    def __init__(self, **sizes) -> None:
        super().__init__()
        self.inner = WAVENET(**sizes)

    def forward(self, codes):
        return self.inner(codes)

    def loss(self, codes):
        raise AssertionError("options need the logits")


@pytest.mark.parametrize(
    "network",
    [
        WAVENET,
        PlainWaveNet,
        functools.partial(NETWORK, arrangement="channel"),
        functools.partial(NETWORK, arrangement="mix", embedding_dim=8),
    ],
    ids=["wavenet", "plain logits", "channel gpt", "mix gpt"],
)
@pytest.mark.parametrize("half_window", [False, True])
def test_spectral_cross_entropy_adds_the_distance_of_log_power_at_8_to_12_hz(network, half_window):
    tokenizer = MuLaw(2, bits=6)
    module, codes = (
        of_samples(tokenizer, network, spectral_weight=0.5, half_window=half_window),
        sample_codes(tokenizer),
    )
    first = 150 if half_window else 1
    logits, _ = module(codes)
    channels_first = getattr(module.network, "arrangement", "") == "channel"
    logits = logits.unflatten(1, (2, 299) if channels_first else (299, 2))
    logits = (logits.transpose(1, 2) if channels_first else logits)[:, first - 1 :]  # (batch, time, channel, vocab)
    real = codes[:, first:, :, 0]
    expected = logits.softmax(dim=-1) @ torch.arange(64.0)
    inside = [f for f in range(129) if 8 <= f * 64 / 256 <= 12]
    log = [(torch.fft.rfft(x.float(), n=256, dim=1).abs() ** 2).mean(dim=(0, 2)) + 1e-8 for x in (expected, real)]
    gap = (log[0].log() - log[1].log())[inside].abs().mean()
    wanted = nn.functional.cross_entropy(logits.flatten(0, 2), real.flatten()) + 0.5 * gap
    logged = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, value.item())  # type: ignore[method-assign]
    found = module.training_step({"codes": codes}, 0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert logged["train/spectral"] == pytest.approx(gap.item(), rel=1e-4)
    parameters = [p for name, p in module.named_parameters() if "site" not in name]
    for a, b in zip(*(torch.autograd.grad(x, parameters) for x in (found, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-3 * float(b.abs().max()))


def test_a_spectrum_of_codes_that_are_no_samples_is_refused():
    with pytest.raises(
        InvalidValue, match=r"model\.spectral_weight=0\.1: expected 0 where codes are not samples in order"
    ):
        task(spectral_weight=0.1)
    with pytest.raises(InvalidValue, match="not samples in order"):
        of_samples(SimpleNamespace(n_sites=2, n_levels=1, vocab_size=8), spectral_weight=0.1)
    with pytest.raises(InvalidValue, match=r"model\.sfreq_hz=null"):
        of_samples(MuLaw(2, bits=3), spectral_weight=0.1, sfreq_hz=None)
    with pytest.raises(InvalidValue, match="8 to 12 Hz"):
        of_samples(MuLaw(2, bits=3), spectral_weight=0.1, sfreq_hz=12.0).training_step({"codes": walk(2)[..., :1]}, 0)


@pytest.mark.parametrize("options", [{"label_smoothing": 1.5}, {"spectral_weight": -1.0}])
def test_losses_that_cannot_be_are_refused(options):
    with pytest.raises(InvalidValue, match=f"model.{next(iter(options))}"):
        task(**options)


def test_rate_warms_up_and_follows_the_schedule_over_the_rest_of_the_training():
    logged, _ = fit(task(lr=1e-3, warmup_steps=4, scheduler_options={"eta_min": 0.0}), n=160)
    rates = [entry["train/lr"] for entry in logged]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[7] == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * 3 / 6)))


def test_lengths_in_epochs_are_counted_in_epochs():
    options = {"scheduler": "StepLR", "scheduler_options": {"step_size": 1, "gamma": 0.5}}
    logged, _ = fit(task(lr=1e-3, scheduler_interval="epoch", **options), n=32, epochs=3)
    assert [entry["train/lr"] for entry in logged] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


def test_without_a_schedule_the_rate_stays():
    logged, _ = fit(task(lr=1e-3, scheduler=None, warmup_steps=2), n=64)
    assert [entry["train/lr"] for entry in logged] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_schedule_goes_on_where_it_was_saved(tmp_path, at):
    def start() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.AdamW(decay_groups(nn.Linear(1, 1), 1e-3, 0.1))
        return optimizer, warmup_then(optimizer, 4, build_scheduler(optimizer, "CosineAnnealingLR", {"T_max": 10}))

    def go(optimizer, schedule, n: int) -> list[float]:
        rates = []
        for _ in range(n):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    wanted = go(*start(), 14)
    optimizer, schedule = start()
    begun = go(optimizer, schedule, at)
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    optimizer, schedule = start()
    for part, state in zip((optimizer, schedule), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert begun + go(optimizer, schedule, 14 - at) == pytest.approx(wanted)


def test_norms_and_biases_do_not_decay_but_tables_do():
    groups = {group["name"]: group for group in decay_groups(task().network, 1e-3, 0.1)}
    assert all(parameter.ndim == 2 for parameter in groups["decay"]["params"])
    assert all(parameter.ndim == 1 for parameter in groups["no_decay"]["params"])
    assert groups["no_decay"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CosineAnealingLR", {}, "did you mean CosineAnnealingLR"),
        ("ReduceLROnPlateau", {}, "complete with numbers; this one needs a metric"),
        ("LambdaLR", {}, "complete with numbers; this one needs a function"),
        ("NoSuchLR", {}, "unknown class"),
        ("CosineAnnealingLR", {"t_max": 5}, "did you mean T_max"),
        ("CosineAnnealingLR", {}, "expected a length"),
    ],
)
def test_schedules_that_cannot_be_are_named(name, options, message):
    optimizer = torch.optim.AdamW(decay_groups(nn.Linear(1, 1), 1e-3, 0.0))
    with pytest.raises(InvalidValue, match=message):
        warmup_then(optimizer, 3, build_scheduler(optimizer, name, options))


# ---- corruption ------------------------------------------------------------------------------------------------------


def test_coverage_runs_from_start_to_end():
    log = TokenCorruption(p_start=0.0, p_end=0.02, ramp="log").coverage(101)
    assert log[0] == 0
    assert log[-1] == pytest.approx(0.02)
    assert log[50] == pytest.approx(math.sqrt(1e-12 * 0.02))
    assert TokenCorruption(0.5, 0.0, ramp="log").coverage(3)[-1] == 0
    assert TokenCorruption(0.0, 0.02).coverage(5).tolist() == pytest.approx([0, 0.005, 0.01, 0.015, 0.02])
    for ramp in ("log", "linear"):
        assert TokenCorruption(0.3, 0.1, ramp=ramp).coverage(1).tolist() == [0.3]


def test_blocks_cover_as_much_as_they_should():
    torch.manual_seed(0)
    covered = TokenCorruption(0.3, 0.3, block_frames=8).covered(400, 200)
    assert covered[:, 7:].float().mean() == pytest.approx(0.3, abs=0.02)
    padded = nn.functional.pad(covered.float(), (1, 0))
    begins, ends = (padded.diff(dim=1) == 1).nonzero(), (padded.diff(dim=1) == -1).nonzero()
    first = {row: next(int(c) for r, c in begins.tolist() if r == row) for row in range(5)}
    last = {row: next(int(c) for r, c in ends.tolist() if r == row) for row in range(5)}
    assert all(last[row] - first[row] >= 8 for row in range(5))


def test_all_tokens_of_a_covered_frame_change_and_no_others():
    torch.manual_seed(0)
    codes = walk(50, 60)
    corruption = TokenCorruption(0.5, 0.5, block_frames=4)
    changed = (corruption(codes, VOCAB) != codes).flatten(2)
    assert torch.equal(changed.any(dim=2), changed.all(dim=2))
    assert 0.4 < changed.float().mean() < 0.55
    other = (corruption(codes, VOCAB) - codes)[corruption(codes, VOCAB) != codes] % VOCAB
    assert set(other.tolist()) >= set(range(1, VOCAB))


def test_the_network_reads_corrupted_codes_and_predicts_the_real_ones():
    seen = []

    class Spy(FlatGPT):
        def loss(self, codes, inputs=None):
            seen.append((codes, inputs))
            return super().loss(codes, inputs)

    module = task(functools.partial(Spy, **NETWORK.keywords), corruption=TokenCorruption(1.0, 1.0))
    codes = walk(4)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.training_step({"codes": codes}, 0)
    assert torch.equal(seen[0][0], codes)
    assert (seen[0][1] != codes).all()


@pytest.mark.parametrize("options", [{"p_end": 1.5}, {"block_frames": 0}, {"ramp": "cubic"}, {"p_start": -0.1}])
def test_corruption_that_cannot_be_is_refused(options):
    with pytest.raises(InvalidValue, match=f"corruption.{next(iter(options))}"):
        TokenCorruption(**options)


# ---- forecasts -------------------------------------------------------------------------------------------------------


class Steps:
    """Frames of two samples: the first channel pair's value decides the codes, the decoder adds the frame before."""

    hop, n_sites, n_levels, vocab_size, receptive_field, fingerprint = 2, SITES, LEVELS, VOCAB, 3, "steps"

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        frames = signal.unflatten(2, (-1, 2))  # (batch, channel, frame, 2)
        return frames.permute(0, 2, 1, 3).long() % VOCAB

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        value = codes.permute(0, 2, 1, 3).flatten(2).float()
        before = nn.functional.pad(value, (2, 0))[..., :-2]
        return value + before / 16


def forecaster(**options):
    return task(**options).forecaster(SimpleNamespace(tokenizer=Steps()))


def test_nouns_keep_their_promises():
    assert isinstance(Steps(), Tokenizer)
    assert isinstance(forecaster(), Forecaster)


@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_forecast_has_exactly_the_steps_asked_for(steps):
    context = torch.randint(VOCAB, (3, SITES, 10)).float()
    out = forecaster().forecast(context, steps, Sampler("roulette"), torch.Generator().manual_seed(0))
    assert out.shape == (3, SITES, steps)
    assert out.dtype == torch.float32


def test_shorter_forecasts_are_the_beginning_of_longer_ones():
    context = torch.randint(VOCAB, (2, SITES, 10)).float()
    each = [forecaster().forecast(context, n, Sampler("roulette"), torch.Generator().manual_seed(0)) for n in (7, 8)]
    assert torch.equal(each[0], each[1][..., :7])


def test_forecast_goes_on_from_the_end_of_the_context():
    context = torch.randint(VOCAB, (2, SITES, 11)).float()
    one, codes = forecaster().forecast_with_codes(context, 6, Sampler("argmax"))
    known = Steps().encode(context[..., 1:])  # the sample that fills no frame is the oldest
    assert torch.equal(codes, task().network.generate(known, 3, Sampler("argmax"), max_frames=FRAMES))
    assert torch.equal(one, Steps().decode(torch.cat([known, codes], dim=1))[..., 10:16])


def test_only_as_much_context_is_encoded_as_the_window_can_use():
    made = forecaster(max_context=4)
    lengths = []
    encode = made.tokenizer.encode
    made.tokenizer.encode = lambda signal: lengths.append(signal.shape[-1]) or encode(signal)
    context = torch.randint(VOCAB, (1, SITES, 101)).float()
    codes = made.encode(context, made.max_context)
    assert lengths == [(4 + 2) * 2]  # two frames before the window cover the receptive field of three samples
    assert torch.equal(codes, encode(context[..., 1:])[:, -4:])


def test_longest_context_of_minus_one_is_that_of_the_training():
    for max_context in (None, -1):
        assert forecaster(max_context=max_context).max_context == FRAMES
    for max_context in (-2, 0, 1):
        with pytest.raises(InvalidValue, match=rf"model\.max_context={max_context}: expected at least 2 frames"):
            task(max_context=max_context)


def test_forecasts_stream_beyond_the_window():
    made = forecaster(max_context=6, shift=0.5)
    out = made.forecast(torch.randint(VOCAB, (1, SITES, 8)).float(), 60, Sampler("roulette"))
    assert out.shape == (1, SITES, 60)


def test_what_cannot_be_forecast_is_said():
    with pytest.raises(ShapeMismatch, match="at least 2 samples"):
        forecaster().forecast(torch.zeros(1, SITES, 1), 4, Sampler())
    with pytest.raises(InvalidValue, match="steps"):
        forecaster().forecast(torch.zeros(1, SITES, 4), -1, Sampler())
    with pytest.raises(InvalidValue, match=r"data\.tokenizer"):
        task().forecaster(SimpleNamespace(tokenizer=None))
    with pytest.raises(InvalidValue, match=r"model\.vocab_size"):
        task(vocab_size=None)
    with pytest.raises(InvalidValue, match=r"model\.lr"):
        task(lr=0.0)


def test_token_models_do_without_transformers():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import brainlab.models.flat_gpt, brainlab.tasks.forecasting, brainlab.nn.sampling\n"
        "assert not any(name.startswith('transformers.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
