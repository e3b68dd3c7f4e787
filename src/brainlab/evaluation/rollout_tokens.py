"""What real codes cost a token model along a context, beside the price of knowing only how often codes occur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from brainlab.evaluation.rollout_generation import RealSignals
from brainlab.metrics.tokens import Unigram, bits, score_tokens

__all__ = ["TokenSummary", "in_frames", "linear_bits", "summarise_tokens", "training_unigram"]

_LARGEST = 1 << 27  # values of logits held at once
_MOST_TRAINING_TOKENS = 4_000_000


@dataclass(frozen=True)
class TokenSummary:
    """Prices of real codes in bits, per context where intervals are wanted.

    ``usage`` holds the shares of codes in training and in the contexts, most frequent first, ``linear`` the bits per
    token under linear baselines where they can be said; ``facts`` is JSON-ready.
    """

    bits_per_token: Float[np.ndarray, " context"]
    unigram_bits_per_token: Float[np.ndarray, " context"]
    bits_per_level: Float[np.ndarray, " level"]
    bits_per_second: Float[np.ndarray, " frame"]
    time_s: Float[np.ndarray, " frame"]
    usage: dict[str, Float[np.ndarray, " code"]]
    linear: dict[str, Float[np.ndarray, " context"]]
    facts: dict[str, Any]


def summarise_tokens(
    task: Any,
    data: Any,
    real: RealSignals,
    baselines: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> TokenSummary:
    """Score the real codes of every sampled place with the task's network, each given those before it.

    The network reads at most as many frames as its training windows had: the first ones of a place.

    Args:
        task: has ``scores(codes)``: nats and whether the likeliest code was right, per predicted token.
        data: has ``tokenizer``, ``sfreq_hz`` and ``training_codes``.
        real: the sampled places.
        baselines: fitted linear models of the signal, by name.
        device: where the network works.
    """
    tokenizer = data.tokenizer
    n_frames = real.signal.shape[-1] // tokenizer.hop
    longest = getattr(task, "n_frames", None)
    n_frames = n_frames if longest is None else min(n_frames, int(longest))
    signal = torch.from_numpy(real.signal[..., : n_frames * tokenizer.hop])
    per_frame = tokenizer.n_sites * tokenizer.n_levels
    rows = max(1, _LARGEST // (n_frames * per_frame * tokenizer.vocab_size))
    arrange = _arrangement(task, tokenizer, n_frames)
    nats, right, read, errors, sizes = [], [], [], [], []
    with torch.inference_mode():
        for first in range(0, len(signal), rows):
            part = signal[first : first + rows].to(device)
            codes = tokenizer.encode(part).long()
            price, hit = task.scores(codes.to(device))
            sizes.append(len(part))
            errors.append(_decoded_errors(task, tokenizer, part, codes, arrange))
            nats.append(in_frames(price.double().cpu().numpy(), tokenizer, arrange))
            right.append(in_frames(hit.cpu().numpy(), tokenizer, arrange))
            read.append(codes.cpu().numpy())
    codes, cost, hits = np.concatenate(read), np.concatenate(nats), np.concatenate(right)
    judged = codes[:, codes.shape[1] - cost.shape[1] :]
    unigram, n_training = training_unigram(data)
    guess = unigram.nats(judged)
    flat = (len(cost), -1)
    frames_per_s = data.sfreq_hz / tokenizer.hop
    scores = score_tokens(cost.reshape(flat), per_frame, frames_per_s, guess.reshape(flat))
    skipped = n_frames - cost.shape[1]
    priced = {name: linear_bits(each, tokenizer, real, n_frames) for name, each in (baselines or {}).items()}
    linear = {name: values for name, values in priced.items() if values is not None}
    vocab = tokenizer.vocab_size
    return TokenSummary(
        bits_per_token=bits(cost.mean(axis=(1, 2, 3))),
        unigram_bits_per_token=bits(guess.mean(axis=(1, 2, 3))),
        bits_per_level=bits(cost.mean(axis=(0, 1, 2))),
        bits_per_second=scores.bits_per_token_by_step * per_frame * frames_per_s,
        time_s=(np.arange(cost.shape[1]) + skipped) / frames_per_s,
        usage={
            "training": _ranked(unigram.counts.sum(axis=0)),
            "real": _ranked(np.bincount(codes.reshape(-1), minlength=vocab)),
        },
        linear=linear,
        facts={
            **scores.to_dict(),
            "bits_per_token_by_level": bits(cost.mean(axis=(0, 1, 2))).tolist(),
            "accuracy": float(hits.mean()),
            "decoded_mse": {
                name: float(np.average([each[name] for each in errors], weights=sizes)) for name in errors[0]
            },
            "uniform_bits_per_token": float(np.log2(vocab)),
            "linear_bits_per_token": {name: float(values.mean()) for name, values in linear.items()},
            "frames_read": n_frames,
            "frames_judged": int(cost.shape[1]),
            "tokens_per_second": per_frame * frames_per_s,
            "training_tokens_of_the_unigram": n_training,
            "codes_used": {
                "training": int((unigram.counts.sum(axis=0) > 0).sum()),
                "real": len(np.unique(codes)),
                "of": vocab,
            },
        },
    )


def linear_bits(
    baseline: Any, tokenizer: Any, real: RealSignals, n_frames: int
) -> Float[np.ndarray, " context"] | None:
    """Bits per token that the codes of single samples cost under a linear model of the signal.

    A sample's code has the probability density · width of its bin, as long as bins are narrow: −log₂ of that, mean over
    the samples that the model can predict. It holds for tokenizers that quantise every sample of every channel.

    Args:
        baseline: a fitted model with ``nll``.
        tokenizer: makes the codes.
        real: the sampled places.
        n_frames: samples of each place that count.

    Returns:
        bits per token of each context; None for other tokenizers and models, or where channels are absent.
    """
    n_channels, order = real.signal.shape[1], getattr(baseline, "context_steps", 0)
    by_sample = tokenizer.hop == 1 and tokenizer.n_levels == 1 and tokenizer.n_sites == n_channels
    if not by_sample or not hasattr(baseline, "nll") or not real.present.all() or n_frames <= order:
        return None
    every = torch.arange(tokenizer.vocab_size)[None, :, None, None].expand(1, -1, n_channels, 1)
    signal = torch.from_numpy(real.signal[..., :n_frames])
    with torch.inference_mode():
        centres = tokenizer.decode(every)[0].double().cpu()
        codes = tokenizer.encode(signal).long().cpu()[:, order:, :, 0]
    if not bool((centres.diff(dim=-1) > 0).all()):
        return None
    middles = 0.5 * (centres[:, 1:] + centres[:, :-1])
    inner = middles.diff(dim=-1)
    width = torch.cat([inner[:, :1], inner, inner[:, -1:]], dim=-1).log2()
    spent = torch.stack([width[site, codes[..., site]] for site in range(n_channels)], dim=-1)
    return (bits(baseline.nll(signal).double().cpu().numpy()) - spent.mean(dim=(1, 2)).numpy()).astype(np.float64)


def training_unigram(data: Any, most_tokens: int = _MOST_TRAINING_TOKENS) -> tuple[Unigram, int]:
    """Frequencies of the training part's codes, level by level, and how many codes were counted.

    Args:
        data: has ``training_codes``; its loaders are left alone.
        most_tokens: about as many codes count, an equal share of every stretch.
    """
    tokenizer = data.tokenizer
    unigram, n = Unigram(tokenizer.vocab_size, tokenizer.n_levels), 0
    per_s = tokenizer.n_sites * tokenizer.n_levels * data.sfreq_hz / tokenizer.hop
    for _, codes in data.training_codes(most_tokens / per_s):
        unigram.update(codes)
        n += codes.size
    return unigram, n


def in_frames(
    values: Float[np.ndarray, "batch position"], tokenizer: Any, arrangement: str
) -> Float[np.ndarray, "batch frame site level"]:
    """Values of predicted tokens as (frame, site, level); a first frame that is not predicted whole is left out.

    Args:
        values: in the order in which the network predicts.
        tokenizer: its sites and levels.
        arrangement: "frames": all tokens of a frame follow one another; "sites": one sequence for each site.
    """
    n, sites, levels = len(values), tokenizer.n_sites, tokenizer.n_levels
    if arrangement == "sites":
        per_site = values.reshape(n, sites, -1)
        whole = per_site[..., per_site.shape[-1] % levels :]
        return whole.reshape(n, sites, -1, levels).transpose(0, 2, 1, 3)
    whole = values[:, values.shape[1] % (sites * levels) :]
    return whole.reshape(n, -1, sites, levels)


def _arrangement(task: Any, tokenizer: Any, n_frames: int) -> str:
    """In which of its two orders the network predicts, asked with codes that cannot be mistaken."""
    if tokenizer.n_sites == 1:
        return "frames"
    shape = (1, min(n_frames, 8), tokenizer.n_sites, tokenizer.n_levels)
    codes = torch.randint(tokenizer.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    device = next(iter(task.parameters()), torch.empty(0)).device
    with torch.inference_mode():
        targets = task(codes.to(device))[1].cpu()
    return "frames" if torch.equal(codes.reshape(1, -1)[:, -targets.shape[1] :], targets) else "sites"


def _decoded_errors(
    task: Any, tokenizer: Any, signal: torch.Tensor, codes: torch.Tensor, arrangement: str
) -> dict[str, float]:
    """Mean squared error, in squared units of the data, of the likeliest next codes and of the real ones, decoded."""
    likeliest = task(codes)[0].argmax(dim=-1)
    guessed = torch.from_numpy(in_frames(likeliest.cpu().numpy(), tokenizer, arrangement)).to(codes.device)
    first = codes.shape[1] - guessed.shape[1]
    judged = signal[..., first * tokenizer.hop :].double()

    def error(read: torch.Tensor) -> float:
        return float((tokenizer.decode(read)[..., first * tokenizer.hop :].double() - judged).square().mean())

    return {
        "likeliest_codes": error(torch.cat([codes[:, :first], guessed], dim=1)),
        "real_codes": error(codes),
        "zero": float(judged.square().mean()),
    }


def _ranked(counts: Int[np.ndarray, " code"]) -> Float[np.ndarray, " code"]:
    return np.sort(counts)[::-1] / max(int(counts.sum()), 1)
