"""What the lines of figures on rollouts share: colour, name, spread over contexts, place and legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from brainlab.plot.figure import BLUE, GREEN, GREY, ORANGE, PINK

__all__ = [
    "FEW",
    "Spread",
    "draw_spread",
    "line_places",
    "line_styles",
    "line_tick",
    "line_word",
    "quartiles",
    "shared_legend",
    "spread_text",
]

#: Fewer contexts than these have no quartiles worth a band: each is drawn instead.
FEW = 6

_BLACK = "#111111"
_FIXED = {
    "correct": (BLUE, "-"),
    "target_swap": (ORANGE, "-"),
    "prompt_swap": (PINK, "-"),
    "real_real": (GREY, "--"),
    "own_context": (GREY, ":"),
    "tokenizer": (_BLACK, ":"),
    "real": (_BLACK, "-"),
    "model": (BLUE, "-"),
}
_OTHERS = ((GREEN, "-"), ("#56B4E9", "-"), ("#8c510a", "-"), ("#7b3294", "-"))
_WORDS = {
    "correct": "model, own continuation",
    "target_swap": "target swap",
    "prompt_swap": "prompt swap",
    "real_real": "real – real of another context",
    "own_context": "real context – its continuation",
    "tokenizer": "tokenizer's reconstruction",
    "real": "real",
    "training": "training",
    "model": "model",
}
_SHORT = {"correct": "model", "real_real": "real–real", "own_context": "own context"}

#: How the contexts of a line are drawn.
Spread = Literal["bands", "bars", "thin lines", "small dots"]


def line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each line: the same for the same name in every figure.

    >>> line_styles(["correct", "var"])["correct"] == ("#0072B2", "-")
    True
    """
    free = iter(_OTHERS * (1 + len(names) // len(_OTHERS)))
    return {name: _FIXED[name] if name in _FIXED else next(free) for name in names}


def line_word(name: str) -> str:
    """What a legend calls a line."""
    return _WORDS.get(name, f"baseline {name}")


def line_tick(name: str) -> str:
    """What an axis or a title calls it, where there is little room."""
    return _SHORT.get(name, name.replace("_", " "))


def line_places(panel: Any, seconds: Sequence[float], names: Sequence[str], along: str) -> dict[str, Sequence[float]]:
    """Where each line is drawn: along time, or side by side where there is a single time; labels the axis."""
    if len(seconds) > 1:
        panel.set_xlabel(f"{along} (s)")
        panel.locator_params(axis="x", nbins=6)
        return dict.fromkeys(names, seconds)
    panel.set_xlabel(f"{along}: {round(seconds[0], 2):g} s")
    panel.set_xticks(range(len(names)), [line_tick(name) for name in names], rotation=35, ha="right", fontsize=9)
    panel.set_xlim(-0.6, len(names) - 0.4)
    return {name: [place] for place, name in enumerate(names)}


def draw_spread(
    panel: Any,
    x: Sequence[float] | Float[np.ndarray, " point"],
    values: Float[np.ndarray, "point context"],
    colour: str,
) -> Spread | None:
    """Quartiles over contexts, or each context where they are few; returns which, None for a single one."""
    kept = values[:, np.isfinite(values).any(axis=0)]
    if kept.shape[1] < 2:
        return None
    if kept.shape[1] < FEW:
        panel.plot(x, kept, color=colour, lw=0.8, alpha=0.6, marker="." if len(x) == 1 else None)
        return "small dots" if len(x) == 1 else "thin lines"
    low, _, high = quartiles(kept)
    if len(x) == 1:
        panel.vlines(x, low, high, color=colour, lw=2, alpha=0.5)
        return "bars"
    panel.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    return "bands"


def spread_text(n_contexts: int, drawn: Mapping[str, Spread | None]) -> str:
    """What is drawn of how many contexts, for a title; only the lines named have bands.

    >>> spread_text(36, {"correct": "bands", "target_swap": "bands"})
    '36 contexts: medians; bands: quartiles of model and target swap'
    >>> spread_text(2, {"real": "thin lines", "model": "thin lines"})
    '2 contexts: medians; thin lines: each context of real and model'
    >>> spread_text(1, {"real": None})
    '1 context'
    """
    if n_contexts < 2:
        return f"{n_contexts} context"
    said = [f"{n_contexts} contexts: medians"]
    for spread in dict.fromkeys(each for each in drawn.values() if each is not None):
        what = "quartiles" if spread in ("bands", "bars") else "each context"
        said.append(f"{spread}: {what} of {' and '.join(line_tick(name) for name in drawn if drawn[name] == spread)}")
    return "; ".join(said)


def quartiles(values: Float[np.ndarray, "point context"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """25, 50 and 75 % over the contexts that have a value; NaN where none has."""
    kept = np.where(np.isfinite(values), values, np.nan)
    out = np.full((3, len(kept)), np.nan)
    some = np.isfinite(kept).any(axis=1)
    out[:, some] = np.nanquantile(kept[some], [0.25, 0.5, 0.75], axis=1)
    return out[0], out[1], out[2]


def shared_legend(figure: Any, panels: Sequence[Any], columns: int = 4) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=11
        )
