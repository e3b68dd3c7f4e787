"""Draws codes from logits: greedy, top-k, nucleus and plain sampling, with a temperature per level of a quantiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from brainlab.errors import InvalidValue

__all__ = ["Sampler", "temperatures_of_levels"]


def temperatures_of_levels(
    n_levels: int,
    level_temperatures: Sequence[float] | Literal["curriculum"] | None,
    temperature: float = 1.0,
    decay: float = 0.85,
    minimum: float = 0.0,
) -> list[float] | None:
    """The temperature of each level, or None where all levels share one.

    ``curriculum`` cools the finer levels, ``max(temperature · decay^level, minimum)``; a list is continued with its
    last value.

    >>> temperatures_of_levels(4, "curriculum", 1.2, 0.5, 0.4), temperatures_of_levels(3, [1, 0.5])
    ([1.2, 0.6, 0.4, 0.4], [1.0, 0.5, 0.5])

    Raises:
        InvalidValue: for an unknown name, an empty list or a negative temperature.
    """
    if level_temperatures is None:
        return None
    if level_temperatures == "curriculum":
        return [max(temperature * decay**level, minimum) for level in range(n_levels)]
    if isinstance(level_temperatures, str) or not level_temperatures or min(level_temperatures) < 0:
        raise InvalidValue("level_temperatures", level_temperatures, "expected curriculum or a list of numbers ≥ 0")
    return [float(level_temperatures[min(level, len(level_temperatures) - 1)]) for level in range(n_levels)]


class Sampler:
    """Turns logits into codes.

    Args:
        kind: ``top_p`` keeps the likeliest codes up to and including the one that crosses ``top_p``, ``top_k`` the
            ``top_k`` likeliest, ``roulette`` all of them, ``argmax`` the likeliest.
        top_p: probability to keep, in (0, 1].
        top_k: number of codes to keep; more than there are keeps all.
        temperature: divides the logits; 0 is ``argmax``.
        level_temperatures: see :func:`temperatures_of_levels`; None uses ``temperature`` for every level.
        temperature_decay: factor from level to level of the curriculum.
        temperature_min: lowest temperature of the curriculum.

    Raises:
        InvalidValue: for a setting that leaves nothing to draw from.

    Source: Holtzman et al. (2020), nucleus sampling, section 3.1.
    """

    def __init__(
        self,
        kind: Literal["top_p", "top_k", "argmax", "roulette"] = "top_p",
        top_p: float = 0.9,
        top_k: int = 50,
        temperature: float = 1.0,
        level_temperatures: list[float] | Literal["curriculum"] | None = None,
        temperature_decay: float = 0.85,
        temperature_min: float = 0.0,
    ) -> None:
        if kind not in ("top_p", "top_k", "argmax", "roulette"):
            raise InvalidValue("kind", kind, "expected top_p, top_k, argmax or roulette")
        if not 0 < top_p <= 1:
            raise InvalidValue(
                "top_p", top_p, "expected a probability above 0, at most 1", hint="kind=argmax is greedy"
            )
        if top_k < 1:
            raise InvalidValue("top_k", top_k, "expected at least 1")
        for name, value in (("temperature", temperature), ("temperature_min", temperature_min)):
            if not 0 <= value < float("inf"):
                raise InvalidValue(name, value, "expected a finite number, at least 0")
        if not 0 < temperature_decay <= 1:
            raise InvalidValue("temperature_decay", temperature_decay, "expected a factor above 0, at most 1")
        temperatures_of_levels(1, level_temperatures)
        self.kind, self.top_p, self.top_k, self.temperature = kind, top_p, top_k, temperature
        self.level_temperatures = level_temperatures
        self.temperature_decay, self.temperature_min = temperature_decay, temperature_min

    def temperature_of(self, level: int) -> float:
        """The temperature that level ``level`` is drawn with."""
        levels = temperatures_of_levels(
            level + 1, self.level_temperatures, self.temperature, self.temperature_decay, self.temperature_min
        )
        return self.temperature if levels is None else levels[level]

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], level: int = 0, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*batch"]:
        """One code for every row of logits.

        Args:
            logits: unnormalised log-probabilities.
            level: of the codes, for their temperature.
            generator: source of randomness; None uses torch's own.
        """
        temperature = self.temperature_of(level)
        if self.kind == "argmax" or temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits.float() / temperature
        n_codes = logits.shape[-1]
        if self.kind == "roulette":
            share, codes = torch.softmax(logits, dim=-1), None
        elif self.kind == "top_k":
            logits, codes = logits.topk(min(self.top_k, n_codes), dim=-1)
            share = torch.softmax(logits, dim=-1)
        else:
            logits, codes = logits.sort(dim=-1, descending=True)
            share = torch.softmax(logits, dim=-1)
        # Inverse of the cumulative distribution: one uniform number a row, and nothing to renormalise.
        cumulative = share.cumsum(dim=-1)
        if self.kind == "top_p":
            kept = (cumulative - share < self.top_p).sum(dim=-1, keepdim=True)
        else:
            kept = torch.full_like(cumulative[..., :1], cumulative.shape[-1], dtype=torch.long)
        mass = cumulative.gather(-1, kept - 1)
        uniform = torch.rand(mass.shape, generator=generator, device=_device_of(generator, mass)).to(mass.device)
        place = torch.searchsorted(cumulative.contiguous(), uniform * mass, right=True).minimum(kept - 1)
        drawn = place if codes is None else codes.gather(-1, place)
        return drawn.squeeze(-1)


def _device_of(generator: torch.Generator | None, like: Tensor) -> torch.device:
    return like.device if generator is None else generator.device
