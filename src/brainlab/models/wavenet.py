"""WaveNet on codes: gated dilated causal convolutions over time, one channel at a time (van den Oord et al., 2016).

Every site of the tokenizer (a channel, for mu-law codes) is a sequence of its own; all share the weights and are told
apart by a learned embedding of the site, which enters every gate. A frame's levels are read together and predicted
side by side, independently given the past. What differs from the audio model: learned embeddings of codes instead of a
first convolution, the site's identity, and an optional class of every frame (what the person saw or did).

The memory is the receptive field, 1 + (kernel − 1) · Σ dilations frames, and generation needs no more than that: each
layer keeps the inputs that its next output can still see.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.cross_entropy import LinearPrediction

__all__ = ["GatedLayer", "WaveNet"]

_CHUNK_BYTES = 1 << 25


class GatedLayer(nn.Module):
    """tanh · sigmoid of a dilated causal convolution, with a residual and a skip output (eq. 2).

    The last layer of a stack has no residual output: nothing would read it.
    """

    def __init__(
        self, width: int, kernel: int, dilation: int, n_gates: int, n_skip: int, n_condition: int, last: bool
    ) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.convolution = nn.Linear(kernel * width, 2 * n_gates)
        self.condition = nn.Linear(n_condition, 2 * n_gates, bias=False)
        self.skip = nn.Linear(n_gates, n_skip)
        self.residual = None if last else nn.Linear(n_gates, width)

    @property
    def memory(self) -> int:
        """Past frames that an output sees."""
        return (self.kernel - 1) * self.dilation

    def forward(
        self,
        x: Float[Tensor, "sequence frame width"],
        past: Float[Tensor, "sequence memory width"],
        condition: Float[Tensor, "sequence frame condition"],
    ) -> tuple[Float[Tensor, "sequence frame width"], Float[Tensor, "sequence frame gate"]]:
        """The next layer's input and this layer's gated output; ``past`` is what stood before ``x``."""
        n_frames = x.shape[1]
        seen = torch.cat([past, x], dim=1)
        taps = torch.cat([seen[:, j * self.dilation :][:, :n_frames] for j in range(self.kernel)], dim=-1)
        return self.step(x, taps, self.condition(condition))

    def step(self, x: Tensor, taps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, from the frames that the kernel touches, side by side, and the projected condition."""
        signal, gate = (self.convolution(taps) + condition).chunk(2, dim=-1)
        z = torch.tanh(signal) * torch.sigmoid(gate)
        return x if self.residual is None else x + self.residual(z), z


class WaveNet(nn.Module):
    """Dilated causal convolutions on codes (batch, frame, site, level).

    Args:
        n_sites: channels or places of a frame.
        n_levels: levels of the quantiser.
        vocab_size: codes of a level.
        dilations: of the layers, in frames.
        kernel: frames that a convolution touches.
        width: features of the residual stream.
        n_gates: features of a gate; default ``width``.
        n_skip: features of the skip sum; default ``2 · width``.
        n_hidden: hidden width of the head; default ``n_skip``.
        site_dim: features of the site's embedding.
        ordered: start from vectors that change smoothly with the code. Mu-law codes are amplitudes in order: a network
            that has to find this out from examples learns several times slower.
        n_classes: classes that a frame can have; 0 for none. Their vectors enter every gate beside the site's.
        dropout: probability of dropping a feature of the skip sum in training.

    Raises:
        InvalidValue: if a size is not positive.

    Source: van den Oord et al. (2016), arXiv:1609.03499, sections 2.1–2.5.
    """

    def __init__(
        self,
        n_sites: int,
        n_levels: int,
        vocab_size: int,
        dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128),
        kernel: int = 2,
        width: int = 64,
        n_gates: int | None = None,
        n_skip: int | None = None,
        n_hidden: int | None = None,
        site_dim: int = 16,
        ordered: bool = True,
        n_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        n_gates = width if n_gates is None else n_gates
        n_skip = 2 * width if n_skip is None else n_skip
        n_hidden = n_skip if n_hidden is None else n_hidden
        sizes = {"n_sites": n_sites, "n_levels": n_levels, "vocab_size": vocab_size, "width": width}
        sizes |= {"n_gates": n_gates, "n_skip": n_skip, "n_hidden": n_hidden, "site_dim": site_dim}
        for name, size in sizes.items():
            if size is None or size < 1:
                raise InvalidValue(name, size, "expected a positive size")
        if kernel < 2:
            raise InvalidValue("kernel", kernel, "expected at least 2 frames: one tap sees no past")
        if not dilations or min(dilations) < 1:
            raise InvalidValue("dilations", list(dilations), "expected at least one, each 1 or more frames")
        if n_classes < 0:
            raise InvalidValue("n_classes", n_classes, "expected a number of classes, 0 for none")
        self.n_sites, self.n_levels, self.vocab_size, self.n_classes = n_sites, n_levels, vocab_size, n_classes
        self.tokens_per_frame = n_sites * n_levels
        self.max_frames: int | None = None  # convolutions know no positions
        self.receptive_field = 1 + (kernel - 1) * sum(dilations)

        self.embedding = nn.Embedding(n_levels * vocab_size, width)
        if ordered:
            with torch.no_grad():
                self.embedding.weight.copy_(_smooth_vectors(vocab_size, width).repeat(n_levels, 1))
        self.site = nn.Embedding(n_sites, site_dim)
        self.classes = nn.Embedding(n_classes, site_dim) if n_classes else None
        self.layers = nn.ModuleList(
            GatedLayer(width, kernel, dilation, n_gates, n_skip, site_dim, last=index + 1 == len(dilations))
            for index, dilation in enumerate(dilations)
        )
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(n_skip, n_hidden)
        self.heads = nn.Linear(n_hidden, n_levels * vocab_size, bias=False)
        self.register_buffer("offsets", torch.arange(n_levels) * vocab_size, persistent=False)

    # ---- prediction ----------------------------------------------------------------------------------------------

    def _checked(self, codes: Tensor, condition: Tensor | None, n_frames: int) -> Tensor | None:
        """Classes as (batch, frame), of codes and classes that fit."""
        if codes.ndim != 4 or tuple(codes.shape[2:]) != (self.n_sites, self.n_levels):
            raise ShapeMismatch(
                "codes", tuple(codes.shape), f"expected (batch, frame, {self.n_sites} sites, {self.n_levels} levels)"
            )
        if condition is None:
            return None
        if self.classes is None:
            raise InvalidValue("condition", tuple(condition.shape), "expected none: the network has n_classes=0")
        batch = len(codes)
        if tuple(condition.shape) not in ((batch, n_frames), (batch, 1, n_frames)):
            expected = f"expected ({batch}, {n_frames}) or ({batch}, 1, {n_frames})"
            raise ShapeMismatch("condition", tuple(condition.shape), expected)
        return condition.flatten(1)

    def _embedded(self, codes: Tensor) -> Float[Tensor, "sequence frame width"]:
        """Sum over levels of the codes' vectors; a batch's sites follow each other."""
        x = self.embedding(codes + self.offsets).sum(dim=3)
        return x.transpose(1, 2).flatten(0, 1)

    def _condition(self, batch: int, condition: Tensor | None) -> Float[Tensor, "sequence frame condition"]:
        """Site and class of every frame, one frame where nothing changes in time."""
        site = self.site.weight[None, :, None].expand(batch, -1, -1, -1)
        if condition is not None and self.classes is not None:
            site = site + self.classes(condition)[:, None]
        return site.flatten(0, 1)

    def _stack(self, x: Tensor, condition: Tensor, first: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Features of the frames from ``first`` on and each layer's whole input; before the first frame stand zeros."""
        skips, inputs = None, []
        for layer in self.layers:
            inputs.append(x)
            past = x.new_zeros(len(x), layer.memory, x.shape[2])
            x, gated = layer(x, past, condition)
            skip = layer.skip(gated[:, first:])
            skips = skip if skips is None else skips + skip
        return self._head(skips), inputs

    def _head(self, skips: Tensor) -> Tensor:
        return F.relu(self.hidden(self.dropout(F.relu(skips))))

    def _weights(self) -> tuple[Tensor, ...]:
        return self.heads.weight.view(self.n_levels, self.vocab_size, -1).unbind(0)

    def _predictions(
        self, codes: Tensor, inputs: Tensor | None, condition: Tensor | None
    ) -> tuple[Float[Tensor, "batch frame site hidden"], Int[Tensor, "batch frame site level"]]:
        condition = self._checked(codes, condition, codes.shape[1])
        if codes.shape[1] < 2:
            raise ShapeMismatch(
                "codes", tuple(codes.shape), "expected at least two frames: the first predicts the next"
            )
        read = (codes if inputs is None else inputs)[:, :-1]
        # The class of a frame is known when it is predicted, as a stimulus is.
        ahead = None if condition is None else condition[:, 1:]
        features, _ = self._stack(self._embedded(read), self._condition(len(codes), ahead))
        return features.unflatten(0, (len(codes), -1)).transpose(1, 2), codes[:, 1:]

    def forward(
        self,
        codes: Int[Tensor, "batch frame site level"],
        condition: Int[Tensor, "batch frame"] | Int[Tensor, "batch 1 frame"] | None = None,
    ) -> tuple[Float[Tensor, "batch position vocab"], Int[Tensor, "batch position"]]:
        """Logits of all codes from the second frame on, in (frame, site, level) order, and these codes.

        Args:
            codes: of the tokenizer.
            condition: class of each frame, for a network with ``n_classes``.

        Raises:
            ShapeMismatch: if the codes have other sites or levels, or are too short to predict anything.
        """
        features, targets = self._predictions(codes, None, condition)
        logits = torch.stack([F.linear(features, weight) for weight in self._weights()], dim=3)
        return logits.flatten(1, 3), targets.flatten(1)

    @property
    def _chunk(self) -> int:
        return max(1, _CHUNK_BYTES // (4 * self.vocab_size))

    def prediction(
        self,
        codes: Int[Tensor, "batch frame site level"],
        inputs: Int[Tensor, "batch frame site level"] | None = None,
        last_frames: int | None = None,
        condition: Int[Tensor, "batch frame"] | Int[Tensor, "batch 1 frame"] | None = None,
    ) -> LinearPrediction:
        """What the network says about the codes from the second frame on, without the table of all logits.

        Args:
            codes: what is predicted.
            inputs: what the network reads, where that differs (corrupted codes).
            last_frames: only the codes of so many frames at the end, at most one less than there are; default all.
            condition: as in ``forward``.
        """
        features, targets = self._predictions(codes, inputs, condition)
        if last_frames is not None:
            features, targets = features[:, -last_frames:], targets[:, -last_frames:]
        rows = features.flatten(0, 2)
        parts = [((..., level), rows, weight) for level, weight in enumerate(self._weights())]
        return LinearPrediction(targets, parts, self._chunk, frames=lambda ordered: ordered)

    def loss(
        self,
        codes: Int[Tensor, "batch frame site level"],
        inputs: Int[Tensor, "batch frame site level"] | None = None,
        condition: Int[Tensor, "batch frame"] | Int[Tensor, "batch 1 frame"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats per token; arguments as in :meth:`prediction`."""
        return self.prediction(codes, inputs, condition=condition).loss()

    @torch.no_grad()
    def scores(
        self,
        codes: Int[Tensor, "batch frame site level"],
        condition: Int[Tensor, "batch frame"] | Int[Tensor, "batch 1 frame"] | None = None,
    ) -> tuple[Float[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
        """Cross-entropy of every token in nats and whether the likeliest code was right; ordered as in ``forward``."""
        prediction = self.prediction(codes, condition=condition)
        nats, likeliest, _ = prediction.scores()
        return nats.flatten(1), (likeliest == prediction.targets).flatten(1)

    # ---- generation ----------------------------------------------------------------------------------------------

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
        condition: Int[Tensor, "batch all_frames"] | Int[Tensor, "batch 1 all_frames"] | None = None,
    ) -> Int[Tensor, "batch more site level"]:
        """Continue codes by ``n_frames`` frames.

        Nothing is ever dropped or read again: the network forgets by itself what lies beyond its receptive field.

        Args:
            codes: what is known, at least one frame.
            n_frames: frames to add.
            sampler: (logits (…, vocab), level, generator) → codes (…).
            generator: source of randomness; None uses torch's own.
            max_frames: known frames to read at most; None reads all.
            use_cache: keep what each layer still sees; without, every frame reads everything again.
            shift: for networks with windows; without effect.
            condition: class of each known and each new frame.

        Raises:
            ShapeMismatch: if the codes do not fit the network or hold no frame.
        """
        total = codes.shape[1] + n_frames
        condition = self._checked(codes, condition, total)
        if codes.shape[1] == 0:
            raise ShapeMismatch("codes", tuple(codes.shape), "expected at least one frame to continue")
        if max_frames is not None and codes.shape[1] > max_frames:
            codes = codes[:, -max_frames:]
            condition = None if condition is None else condition[:, -(max_frames + n_frames) :]
        everything = codes.new_empty(len(codes), codes.shape[1] + n_frames, self.n_sites, self.n_levels)
        everything[:, : codes.shape[1]] = codes
        was_training = self.training
        self.eval()
        try:
            if use_cache:
                self._stream(everything, codes.shape[1], sampler, generator, condition)
            else:
                for frame in range(codes.shape[1], everything.shape[1]):
                    known = self._embedded(everything[:, :frame])
                    ahead = None if condition is None else condition[:, 1 : frame + 1]
                    features, _ = self._stack(known, self._condition(len(codes), ahead), frame - 1)
                    everything[:, frame] = self._drawn(features[:, -1], sampler, generator)
        finally:
            self.train(was_training)
        return everything[:, codes.shape[1] :]

    def _drawn(self, features: Float[Tensor, "sequence hidden"], sampler: Any, generator: Any) -> Tensor:
        rows = features.view(-1, self.n_sites, features.shape[-1])
        levels = [
            sampler(F.linear(rows, weight), level=level, generator=generator)
            for level, weight in enumerate(self._weights())
        ]
        return torch.stack(levels, dim=-1)

    def _stream(self, everything: Tensor, known: int, sampler: Any, generator: Any, condition: Tensor | None) -> None:
        """Fill ``everything`` from frame ``known`` on; each layer's past lives in a ring of its memory's length."""
        batch = len(everything)
        if known >= everything.shape[1]:
            return
        start = max(0, known - self.receptive_field)
        ahead = None if condition is None else condition[:, start + 1 : known + 1]
        read = self._embedded(everything[:, start:known])
        features, inputs = self._stack(read, self._condition(batch, ahead), known - start - 1)
        rings = []
        for layer, x in zip(self.layers, inputs, strict=True):
            ring = x.new_zeros(layer.memory, len(x), x.shape[2])
            for frame in range(max(start, known - layer.memory), known):
                ring[frame % layer.memory] = x[:, frame - start]
            rings.append(ring)
        fixed = [layer.condition(self._condition(batch, None)[:, 0]) for layer in self.layers]
        everything[:, known] = self._drawn(features[:, -1], sampler, generator)
        for frame in range(known, everything.shape[1] - 1):
            x = self._embedded(everything[:, frame : frame + 1])[:, 0]
            skips, now = None, None
            if condition is not None:
                now = self._condition(batch, condition[:, frame + 1 : frame + 2])[:, 0]
            for layer, ring, bias in zip(self.layers, rings, fixed, strict=True):
                seen = [ring[(frame - j * layer.dilation) % layer.memory] for j in range(layer.kernel - 1, 0, -1)]
                taps = torch.cat([*seen, x], dim=-1)
                ring[frame % layer.memory] = x
                x, gated = layer.step(x, taps, bias if now is None else layer.condition(now))
                skips = layer.skip(gated) if skips is None else skips + layer.skip(gated)
            everything[:, frame + 1] = self._drawn(self._head(skips), sampler, generator)


def _smooth_vectors(n_codes: int, width: int) -> Float[Tensor, "code width"]:
    """Sines and cosines of the code, from half a turn over all codes to ``width / 4`` turns."""
    place = torch.linspace(-1.0, 1.0, n_codes)
    angle = torch.pi * place[:, None] * (0.5 * (torch.arange((width + 1) // 2) + 1))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
