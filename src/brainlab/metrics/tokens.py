"""How well tokens are predicted, and how varied they are.

Everything is counted per token of a flat sequence in (frame, site, level) order; a step is all tokens of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from brainlab.errors import InvalidValue, ShapeMismatch

__all__ = [
    "TokenScores",
    "Unigram",
    "bits",
    "perplexity",
    "score_tokens",
    "token_summary",
]


def bits(nats: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """Nats to bits.

    >>> float(bits(np.log(np.array(2.0))))
    1.0
    """
    return np.asarray(nats, dtype=np.float64) / np.log(2.0)


def perplexity(nats: float) -> float:
    """Number of equally likely choices that a mean loss in nats per token amounts to.

    >>> round(perplexity(np.log(8.0)), 6)
    8.0
    """
    return float(np.exp(nats))


class Unigram:
    """The baseline that knows only how often each code occurs in the training part, level by level.

    One count is added to every code, so that a code that training never used has a finite price.

    Args:
        vocab_size: codes of a level.
        n_levels: levels of the quantiser, each with its own frequencies.
    """

    def __init__(self, vocab_size: int, n_levels: int = 1) -> None:
        if vocab_size < 1 or n_levels < 1:
            raise InvalidValue("vocab_size", (vocab_size, n_levels), "expected at least one code and one level")
        self.counts = np.zeros((n_levels, vocab_size), dtype=np.int64)

    def update(self, codes: Int[np.ndarray, "*batch level"]) -> Unigram:
        """Count training codes; the last axis is the level.

        Raises:
            ShapeMismatch: if the number of levels differs.
            InvalidValue: if a code is not in the vocabulary.
        """
        n_levels, vocab_size = self.counts.shape
        flat = self._flat(codes)
        for level in range(n_levels):
            self.counts[level] += np.bincount(flat[:, level], minlength=vocab_size)
        return self

    def nats(self, codes: Int[np.ndarray, "*batch level"]) -> Float[np.ndarray, "*batch level"]:
        """−ln p of each code."""
        total = self.counts.sum(axis=1, keepdims=True) + self.counts.shape[1]
        table = np.log(total) - np.log(self.counts + 1.0)
        flat = self._flat(codes)
        return table[np.arange(len(table)), flat].reshape(np.shape(codes))

    def _flat(self, codes: Int[np.ndarray, "*batch level"]) -> np.ndarray:
        n_levels, vocab_size = self.counts.shape
        codes = np.asarray(codes)
        if codes.shape[-1:] != (n_levels,):
            raise ShapeMismatch("codes", codes.shape, f"expected {n_levels} levels on the last axis")
        flat = codes.reshape(-1, n_levels).astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= vocab_size):
            raise InvalidValue("codes", f"{flat.min()} … {flat.max()}", f"expected codes in [0, {vocab_size})")
        return flat


@dataclass(frozen=True)
class TokenScores:
    """Price of tokens along a context.

    ``bits_per_token`` per step (mean over sequences and over the step's tokens); the rest are totals. ``bits_per_s``
    is null where the frame rate is not known.
    """

    bits_per_token_by_step: Float[np.ndarray, " step"]
    bits_per_token: float
    perplexity: float
    bits_per_s: float | None
    unigram_bits_per_token: float | None
    unigram_perplexity: float | None
    n_tokens: int

    def to_dict(self) -> dict[str, float | int | list[float] | None]:
        """JSON-ready."""
        return {
            "bits_per_token": self.bits_per_token,
            "perplexity": self.perplexity,
            "bits_per_s": self.bits_per_s,
            "unigram_bits_per_token": self.unigram_bits_per_token,
            "unigram_perplexity": self.unigram_perplexity,
            "n_tokens": self.n_tokens,
            "bits_per_token_by_step": [float(value) for value in self.bits_per_token_by_step],
        }


def score_tokens(
    nats: Float[np.ndarray, "sequence position"],
    tokens_per_step: int,
    frames_per_s: float | None = None,
    unigram_nats: Float[np.ndarray, "sequence position"] | None = None,
) -> TokenScores:
    """Bits per token, perplexity and bits per second from the loss of every token.

    A causal model gives its first tokens no price, so sequences rarely hold whole steps: the surplus is cut off at the
    **start**, which keeps the last step whole.

    Args:
        nats: cross-entropy of each token.
        tokens_per_step: sites × levels of the tokenizer.
        frames_per_s: frames of the tokenizer in one second; null: no bits per second.
        unigram_nats: −ln p of the same tokens under :class:`Unigram`.

    Raises:
        ShapeMismatch: if the two tables differ in shape.
        InvalidValue: if there is not one whole step.
    """
    nats = np.asarray(nats, dtype=np.float64)
    if nats.ndim != 2:
        raise ShapeMismatch("nats", nats.shape, "expected (sequence, position)")
    if unigram_nats is not None and np.shape(unigram_nats) != nats.shape:
        raise ShapeMismatch("unigram_nats", np.shape(unigram_nats), f"expected {nats.shape}")
    if tokens_per_step < 1 or nats.shape[1] < tokens_per_step or not len(nats):
        raise InvalidValue("tokens_per_step", tokens_per_step, f"expected between 1 and {nats.shape[1]} tokens")
    whole = _crop(nats, tokens_per_step)
    mean = float(whole.mean())
    per_step = bits(whole.reshape(len(whole), -1, tokens_per_step).mean(axis=(0, 2)))
    unigram = None if unigram_nats is None else float(_crop(np.asarray(unigram_nats), tokens_per_step).mean())
    return TokenScores(
        bits_per_token_by_step=per_step,
        bits_per_token=float(bits(np.asarray(mean))),
        perplexity=perplexity(mean),
        bits_per_s=None if frames_per_s is None else float(bits(np.asarray(mean))) * tokens_per_step * frames_per_s,
        unigram_bits_per_token=None if unigram is None else float(bits(np.asarray(unigram))),
        unigram_perplexity=None if unigram is None else perplexity(unigram),
        n_tokens=whole.size,
    )


def token_summary(
    codes: Sequence[np.ndarray] | Int[np.ndarray, "sequence channel time"],
) -> dict[str, Float[np.ndarray, " sequence"]]:
    """Variety of codes per sequence (channel, time): NaN for signals that are not integers.

    ``token_entropy`` is the entropy of a step's codes over channels in bits, mean over steps; ``token_unique_rate``
    the number of different codes over the number of codes; ``token_repetition_rate`` one minus that.

    >>> {name: float(value[0]) for name, value in token_summary(np.array([[[1, 2], [1, 3]]])).items()}
    {'token_entropy': 0.5, 'token_unique_rate': 0.75, 'token_repetition_rate': 0.25}
    """
    entropy, unique = np.full(len(codes), np.nan), np.full(len(codes), np.nan)
    for index, one in enumerate(codes):
        if one.dtype.kind not in "iu":
            continue
        ids, counts = np.unique(one, return_inverse=True)
        n_channels, n_time = one.shape
        step = np.arange(n_time) * len(ids)
        _, together = np.unique(counts.reshape(one.shape) + step, return_counts=True)
        lost = float((together * np.log2(together)).sum()) / (n_channels * n_time)
        entropy[index], unique[index] = np.log2(n_channels) - lost, len(ids) / one.size
    return {"token_entropy": entropy, "token_unique_rate": unique, "token_repetition_rate": 1.0 - unique}


def _crop(values: np.ndarray, tokens_per_step: int) -> np.ndarray:
    return values[:, values.shape[1] % tokens_per_step :]
