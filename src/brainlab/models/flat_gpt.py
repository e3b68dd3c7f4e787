"""FlatGPT: one causal transformer over the flattened codes of a recording (Csaky et al., 2026, arXiv:2601.20138).

Codes (frame, site, level) are read in row-major order. What differs from a language model:

* Every level of the quantiser has its own table of embeddings; all tables are one tensor, entered with an offset. The
  head that predicts a token is the table of that token's level, so that the head at level i is tied to the table of
  level (i + 1) mod Q.
* Positions are (frame, site, level) triples, and a section of the rotary frequencies turns with each.
* With ``block`` b the output at place i predicts token i + b from tokens ≤ i, and b tokens are drawn at a time.

Four arrangements of the same codes share everything else:

=========  ==========================================  ======================================
name       a sequence                                  one place holds
=========  ==========================================  ======================================
flat       all codes                                   one token
levels     all codes                                   the levels of one site, side by side
mix        all codes                                   one frame: all sites and levels
channel    the codes of one site, marked by the site   one token
=========  ==========================================  ======================================

``mix`` and ``levels`` draw the tokens of a place independently given the past; ``channel`` knows no other site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.cross_entropy import LinearPrediction
from brainlab.nn.decoder import Decoder
from brainlab.nn.kv_cache import KVCache
from brainlab.nn.rope import rotation_table

__all__ = ["FlatGPT", "corrupted_spans"]

_CHUNK_BYTES = 1 << 25
_START = 0.02  # standard deviation of embeddings


def corrupted_spans(
    shape: tuple[int, int, int, int], probability: Sequence[float], device: torch.device | str | None = None
) -> Bool[Tensor, "batch frame site level"]:
    """Which codes the network is not shown in training.

    Single codes of level q with probability ``probability[q]`` (continued with its last value), and for each sequence
    ``max(1, frame // 64)`` spans of 2 to 8 frames on a random half of the levels.
    """
    batch, n_frames, _, n_levels = shape
    chance = torch.tensor([probability[min(q, len(probability) - 1)] for q in range(n_levels)], device=device)
    single = torch.rand(shape, device=device) < chance
    n_spans = max(1, n_frames // 64)
    start = torch.randint(n_frames, (batch, n_spans, 1), device=device)
    length = torch.randint(2, 9, (batch, n_spans, 1), device=device)
    frame = torch.arange(n_frames, device=device)
    inside = ((frame >= start) & (frame < start + length)).any(dim=1)
    rank = torch.rand(batch, n_levels, device=device).argsort(dim=1)
    half = rank < max(1, n_levels // 2)
    return single | (inside[:, :, None, None] & half[:, None, None, :])


def _touched(module: nn.Module, _: object) -> None:
    """Loaded weights are no start any more."""
    module._untouched = False


class FlatGPT(nn.Module):
    """A causal transformer on codes (batch, frame, site, level).

    Args:
        n_sites: places or channels of a frame.
        n_levels: levels of the quantiser.
        vocab_size: codes of a level.
        arrangement: how codes become places of a sequence, see the table above.
        width: features of a place.
        n_layers: layers of the decoder.
        n_heads: query heads.
        n_kv_heads: key heads.
        head_dim: features of a head; default ``width / n_heads``.
        ffn_width: hidden width of the feed-forward step; default 8/3 · width.
        embedding_dim: features of a token before the places are formed; default ``width``.
        qkv_bias: whether queries, keys and values have a bias.
        rope_theta: base of the rotary frequencies.
        rope_sections: frequencies that turn with frame, site and level; default a third each.
        site_embedding: add a learned vector of the site to its tokens. Rotary positions tell how far apart two sites
            are, not which they are; the arrangement ``channel`` always has it.
        block: tokens that are predicted at a time; a divisor of the places of a frame.
        tie_heads: predict with the tables of the embedding, or with tables of their own.
        dropout: probability of dropping a feature of a residual branch in training.
        recompute: trade work for memory in training, see :class:`brainlab.nn.decoder.Decoder`.
        embedding_corruption: probability per level that training hides a code, see :func:`corrupted_spans`; of the
            hidden ones 70 % become a learned vector and 30 % a random code. None hides nothing.

    Raises:
        InvalidValue: if the sizes do not fit together.

    Source: Csaky et al. (2026), section 3.
    """

    def __init__(
        self,
        n_sites: int,
        n_levels: int,
        vocab_size: int,
        arrangement: Literal["flat", "levels", "mix", "channel"] = "flat",
        width: int = 1200,
        n_layers: int = 12,
        n_heads: int = 10,
        n_kv_heads: int = 2,
        head_dim: int | None = None,
        ffn_width: int | None = 4560,
        embedding_dim: int | None = None,
        qkv_bias: bool = True,
        rope_theta: float = 1e6,
        rope_sections: list[int] | None = None,
        site_embedding: bool = False,
        block: int = 1,
        tie_heads: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
        embedding_corruption: list[float] | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("n_sites", n_sites), ("n_levels", n_levels), ("vocab_size", vocab_size)):
            if size is None or size < 1:
                raise InvalidValue(name, size, "expected a positive size; null follows the tokenizer in a run")
        layout = {"flat": 1, "levels": n_levels, "mix": n_sites * n_levels, "channel": 1}
        if arrangement not in layout:
            raise InvalidValue("arrangement", arrangement, f"expected one of {', '.join(layout)}")
        self.n_sites, self.n_levels, self.vocab_size = n_sites, n_levels, vocab_size
        self.arrangement, self.group = arrangement, layout[arrangement]
        self.tokens_per_frame = n_sites * n_levels
        self.n_sequences = n_sites if arrangement == "channel" else 1
        self.places_per_frame = self.tokens_per_frame // self.group // self.n_sequences
        if block < 1 or self.places_per_frame % block:
            raise InvalidValue("block", block, f"expected a divisor of the {self.places_per_frame} places of a frame")
        self.block, self.tie_heads, self.embedding_corruption = block, tie_heads, embedding_corruption
        self.max_frames: int | None = None  # rotary positions know no end
        self.rope_theta, self.rope_sections = rope_theta, rope_sections

        self.decoder = Decoder(width, n_layers, n_heads, n_kv_heads, head_dim, ffn_width, qkv_bias, dropout, recompute)
        rotation_table(torch.zeros(1, 3, device="cpu").long(), self.decoder.head_dim, rope_theta, rope_sections)
        size = width if embedding_dim is None else embedding_dim
        self.embedding = nn.Embedding(n_levels * vocab_size, size)
        plain = self.group * size == width and self.group == 1
        self.enter = nn.Identity() if plain else nn.Linear(self.group * size, width, bias=False)
        self.leave = nn.Identity() if plain else nn.Linear(width, self.group * size, bias=False)
        self.heads = None if tie_heads else nn.Linear(size, n_levels * vocab_size, bias=False)
        self.site = nn.Embedding(n_sites, size) if site_embedding or arrangement == "channel" else None
        self.hidden = None if embedding_corruption is None else nn.Embedding(n_levels, size)
        for module in (self.embedding, self.site, self.hidden, self.heads):
            if module is not None:
                nn.init.normal_(module.weight, std=_START)
        self.embedding._untouched = True
        self.embedding.register_load_state_dict_post_hook(_touched)

    @torch.no_grad()
    def start_from(self, vectors: Float[Tensor, "level code dim"], noise: float = 0.3) -> bool:
        """Let codes that stand for like signals start with like embeddings.

        A table that starts at random knows nothing of which codes are neighbours; a network first has to find that out
        from how they follow each other. Every level's vectors are centred, brought to one size, and turned into the
        embedding's space by a fixed rotation. Weights that were loaded are left as they are.

        Args:
            vectors: what the codes stand for, as a tokenizer's ``code_vectors``.
            noise: of the start, as a share of its size, so that near-equal codes can part.

        Returns:
            whether the embedding was changed.

        Raises:
            ShapeMismatch: if levels or codes differ in number.
        """
        if not self.embedding._untouched or self.embedding.weight.is_meta:
            return False
        if tuple(vectors.shape[:2]) != (self.n_levels, self.vocab_size):
            raise ShapeMismatch(
                "vectors", tuple(vectors.shape), f"expected ({self.n_levels}, {self.vocab_size}, dim), as the codes"
            )
        weight = self.embedding.weight
        size, dim = weight.shape[1], vectors.shape[2]
        generator = torch.Generator().manual_seed(0)  # not torch's own: what follows draws as it would without this
        mixed = torch.randn(max(size, dim), max(size, dim), generator=generator)
        rotation = torch.linalg.qr(mixed)[0][:dim, :size]
        start = vectors.detach().float().cpu()
        start = (start - start.mean(dim=1, keepdim=True)).flatten(1)
        start = start / start.std(dim=1, keepdim=True).clamp_min(1e-12)
        start = start.view(-1, dim) @ rotation
        start = start / start.std().clamp_min(1e-12) + noise * torch.randn(weight.shape, generator=generator)
        weight.copy_(_START * start)
        return True

    # ---- codes ↔ places ------------------------------------------------------------------------------------------

    def _arranged(self, codes: Tensor) -> Tensor:
        """(batch, frame, site, level, …) → (sequence, place · group, …); a batch's sites follow each other."""
        batch, n_frames = codes.shape[:2]
        if self.arrangement == "channel":
            codes = codes.transpose(1, 2)
        return codes.reshape(batch * self.n_sequences, n_frames * self.places_per_frame * self.group, *codes.shape[4:])

    def _frames(self, tokens: Int[Tensor, "sequence token"]) -> Int[Tensor, "batch frame site level"]:
        """The inverse of :meth:`_arranged`."""
        if self.arrangement == "channel":
            return tokens.view(-1, self.n_sites, tokens.shape[1] // self.n_levels, self.n_levels).transpose(1, 2)
        return tokens.view(len(tokens), -1, self.n_sites, self.n_levels)

    def _whole_frames(self, tokens: Tensor) -> Tensor:
        """As :meth:`_frames`, of tokens at whose start a frame may be incomplete: it is left out."""
        return self._frames(tokens[:, tokens.shape[1] % (self.places_per_frame * self.group) :])

    def _table(self, n_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations of every place of ``n_frames`` frames."""
        sites = self.n_sites if self.arrangement in ("flat", "levels") else 1
        levels = self.n_levels if self.group == 1 else 1
        grid = [torch.arange(size, device=device) for size in (n_frames, sites, levels)]
        positions = torch.cartesian_prod(*grid).view(-1, 3)
        return rotation_table(positions, self.decoder.head_dim, self.rope_theta, self.rope_sections)

    def _embedded(self, tokens: Tensor, first: int, site: Tensor | None, hidden: Tensor | None = None) -> Tensor:
        """Features of places; ``first`` is the place of the first one in its frame."""
        level = (torch.arange(tokens.shape[1], device=tokens.device) + first * self.group) % self.n_levels
        x = self.embedding(tokens + level * self.vocab_size)
        if hidden is not None and self.hidden is not None:
            x = torch.where(hidden.unsqueeze(-1), self.hidden(level).to(x.dtype), x)
        if site is not None and self.site is not None:
            x = x + self.site(site)
        # What the layers add up keeps the precision of the tables, also where matrix products do not.
        return self.enter(x.unflatten(1, (-1, self.group)).flatten(2)).to(self.embedding.weight.dtype)

    def _sites(self, batch: int, n_frames: int, device: torch.device) -> Tensor | None:
        """The site of every token."""
        if self.site is None:
            return None
        site = torch.arange(self.n_sites, device=device)[:, None].expand(batch, n_frames, self.n_sites, self.n_levels)
        return self._arranged(site)

    def _weights(self) -> tuple[Tensor, ...]:
        """The table that predicts each level."""
        table = self.embedding.weight if self.heads is None else self.heads.weight
        return table.view(self.n_levels, self.vocab_size, -1).unbind(0)

    def _check(self, codes: Tensor) -> None:
        if codes.ndim != 4 or tuple(codes.shape[2:]) != (self.n_sites, self.n_levels):
            raise ShapeMismatch(
                "codes", tuple(codes.shape), f"expected (batch, frame, {self.n_sites} sites, {self.n_levels} levels)"
            )

    # ---- prediction ----------------------------------------------------------------------------------------------

    def _features(self, codes: Tensor, hidden: Tensor | None = None) -> Float[Tensor, "sequence token dim"]:
        """What the network says about the token ``block`` places after each."""
        batch, n_frames = codes.shape[:2]
        tokens = self._arranged(codes)
        mask = None if hidden is None else self._arranged(hidden)
        x = self._embedded(tokens, 0, self._sites(batch, n_frames, codes.device), mask)
        return self._out(self.decoder(x, self._table(n_frames, codes.device)))

    def _out(self, x: Tensor) -> Tensor:
        return self.leave(x).unflatten(2, (self.group, -1)).flatten(1, 2)

    def _by_level(self, n_tokens: int, first: int) -> list[tuple[int, slice]]:
        """(level, which) of ``n_tokens`` tokens in a row, the first of which stands at place ``first``."""
        levels = [(first * self.group + offset) % self.n_levels for offset in range(min(self.n_levels, n_tokens))]
        return [(level, slice(offset, None, self.n_levels)) for offset, level in enumerate(levels)]

    def _predictions(self, codes: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(codes)
        ahead = self.block * self.group
        inputs = codes if inputs is None else inputs
        hidden = None
        if self.training and self.embedding_corruption is not None:
            hidden = corrupted_spans(tuple(inputs.shape), self.embedding_corruption, inputs.device)
            random = hidden & (torch.rand(inputs.shape, device=inputs.device) < 0.3)
            inputs = torch.where(random, torch.randint_like(inputs, self.vocab_size), inputs)
            hidden = hidden & ~random
        targets = self._arranged(codes)[:, ahead:]
        if targets.shape[1] == 0:
            raise ShapeMismatch(
                "codes", tuple(codes.shape), "expected at least two frames: the first predicts the next"
            )
        return self._features(inputs, hidden)[:, :-ahead], targets

    def forward(
        self, codes: Int[Tensor, "batch frame site level"]
    ) -> tuple[Float[Tensor, "batch position vocab"], Int[Tensor, "batch position"]]:
        """Logits of every token that has enough tokens before it, and these tokens.

        Raises:
            ShapeMismatch: if the codes have other sites or levels, or are too short to predict anything.
        """
        features, targets = self._predictions(codes)
        weights = self._weights()
        logits = None
        for level, which in self._by_level(features.shape[1], self.block):
            part = F.linear(features[:, which], weights[level])
            if logits is None:
                logits = part.new_empty(*targets.shape, self.vocab_size)
            logits[:, which] = part
        assert logits is not None
        return logits.view(len(codes), -1, self.vocab_size), targets.reshape(len(codes), -1)

    @property
    def _chunk(self) -> int:
        return max(64, _CHUNK_BYTES // (4 * self.vocab_size))

    def prediction(
        self,
        codes: Int[Tensor, "batch frame site level"],
        inputs: Int[Tensor, "batch frame site level"] | None = None,
        last_frames: int | None = None,
    ) -> LinearPrediction:
        """What the network says about the codes, without the table of all logits; ordered as in ``forward``.

        Args:
            codes: what is predicted.
            inputs: what the network reads, where that differs (corrupted codes).
            last_frames: only the codes of so many frames at the end, at most one less than there are; default all.
        """
        features, targets = self._predictions(codes, inputs)
        if last_frames is not None:
            counted = slice(-last_frames * self.places_per_frame * self.group, None)
            features, targets = features[:, counted], targets[:, counted]
        first = codes.shape[1] * self.places_per_frame - targets.shape[1] // self.group
        weights = self._weights()
        parts = [
            ((slice(None), which), features[:, which].flatten(0, 1), weights[level])
            for level, which in self._by_level(targets.shape[1], first)
        ]
        return LinearPrediction(targets, parts, self._chunk, self._whole_frames)

    def loss(
        self, codes: Int[Tensor, "batch frame site level"], inputs: Int[Tensor, "batch frame site level"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats per token; arguments as in :meth:`prediction`."""
        return self.prediction(codes, inputs).loss()

    @torch.no_grad()
    def scores(
        self, codes: Int[Tensor, "batch frame site level"]
    ) -> tuple[Float[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
        """Cross-entropy of every token in nats and whether the likeliest code was right; ordered as in ``forward``."""
        prediction = self.prediction(codes)
        nats, likeliest, _ = prediction.scores()
        return nats.view(len(codes), -1), (likeliest == prediction.targets).view(len(codes), -1)

    # ---- generation ----------------------------------------------------------------------------------------------

    def cache(self, batch: int, n_frames: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for ``n_frames`` frames of ``batch`` recordings."""
        return self.decoder.cache(batch * self.n_sequences, n_frames * self.places_per_frame, dtype)

    @torch.no_grad()
    def generate(
        self,
        codes: Int[Tensor, "batch frame site level"],
        n_frames: int,
        sampler: Any,
        generator: torch.Generator | None = None,
        max_frames: int | None = None,
        use_cache: bool = True,
        shift: float | int = 0.5,
    ) -> Int[Tensor, "batch more site level"]:
        """Continue codes by ``n_frames`` frames.

        The network reads a window of at most ``max_frames`` frames. Each window is read in once; when it is full its
        oldest part is dropped and the rest begins the next one.

        Args:
            codes: what is known, at least one frame.
            n_frames: frames to add.
            sampler: (logits (…, vocab), level, generator) → codes (…).
            generator: source of randomness; None uses torch's own.
            max_frames: longest window; None never drops anything.
            use_cache: keep keys and values of the window; without, every step reads the whole window again.
            shift: what a full window drops: a share of it, or as an int a number of tokens.

        Raises:
            ShapeMismatch: if the codes do not fit the network or hold no frame.
            InvalidValue: if the shift drops nothing, everything or a part of a frame.
        """
        self._check(codes)
        if codes.shape[1] == 0:
            raise ShapeMismatch("codes", tuple(codes.shape), "expected at least one frame to continue")
        drop = self._dropped(max_frames, shift)
        known, total = codes.shape[1], codes.shape[1] + n_frames
        room = total if max_frames is None else max_frames
        everything = codes.new_empty(len(codes), total, self.n_sites, self.n_levels)
        everything[:, :known] = codes
        was_training = self.training
        self.eval()
        try:
            start = max(0, known - room)
            while known < total:
                if known - start == room:
                    start += drop
                stop = min(total, start + room)
                window = everything[:, start:known]
                everything[:, known:stop] = self._window(window, stop - known, sampler, generator, use_cache)
                known = stop
        finally:
            self.train(was_training)
        return everything[:, codes.shape[1] :]

    def _dropped(self, max_frames: int | None, shift: float | int) -> int:
        """Frames that a full window drops."""
        if max_frames is None:
            return 0
        if max_frames < 2:
            raise InvalidValue("max_frames", max_frames, "expected at least two frames: one known, one new")
        if isinstance(shift, int):
            if shift % self.tokens_per_frame:
                raise InvalidValue(
                    "shift", shift, f"expected a multiple of the {self.tokens_per_frame} tokens of a frame"
                )
            drop = shift // self.tokens_per_frame
        else:
            drop = max(1, round(shift * max_frames)) if 0 < shift < 1 else 0
        if not 0 < drop < max_frames:
            raise InvalidValue(
                "shift", shift, f"expected to drop some and keep some of {max_frames} frames", hint="0.5 drops half"
            )
        return drop

    def _window(
        self, known: Tensor, n_new: int, sampler: Any, generator: torch.Generator | None, use_cache: bool
    ) -> Int[Tensor, "batch new site level"]:
        """Fill one window: read ``known`` once, then draw block after block."""
        batch, n_known = known.shape[:2]
        n_all, per_step = n_known + n_new, self.block * self.group
        table, site = self._table(n_all, known.device), self._sites(batch, n_all, known.device)
        start = n_known * self.places_per_frame
        tokens = known.new_empty(batch * self.n_sequences, n_all * self.places_per_frame * self.group)
        tokens[:, : start * self.group] = self._arranged(known)
        cache = self.cache(batch, n_all) if use_cache else None
        weights = self._weights()
        read, places = 0, n_all * self.places_per_frame
        for place in range(start, places, self.block):
            span = slice(read * self.group, place * self.group)
            x = self._embedded(tokens[:, span], read % self.places_per_frame, None if site is None else site[:, span])
            rotations = (table[0][read:place], table[1][read:place])
            features = self._out(self.decoder(x, rotations, cache)[:, -self.block :])
            new = tokens[:, place * self.group : place * self.group + per_step]
            for level, which in self._by_level(per_step, place):
                new[:, which] = sampler(F.linear(features[:, which], weights[level]), level=level, generator=generator)
            read = place if use_cache else 0
        return self._frames(tokens[:, start * self.group :])
