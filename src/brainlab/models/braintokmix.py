"""BrainTokMix: a causal convolutional tokenizer that mixes all channels into a few places (arXiv:2601.20138).

A causal encoder turns all channels into one latent vector per frame of ``hop`` samples; the vector is cut into
``n_neuro`` places, and a residual quantiser that all places share writes each of them as ``n_levels`` codes. A mirrored
decoder gives the signal back. A code depends on the past alone, so recordings are coded in pieces of any length with
the result of a single pass.

The defaults are the published sizes: 68 channels at 100 Hz become 25 frames/s of 4 × 4 codes out of 16,384, 400 codes
per second. The places of the latent are no places in the head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brainlab.errors import InvalidValue, ShapeMismatch
from brainlab.nn.finite_scalar import FiniteScalarQuantiser
from brainlab.nn.quantise import Quantised, ResidualVectorQuantiser
from brainlab.nn.seanet import SEANetDecoder, SEANetEncoder

__all__ = ["BrainTokMix", "Reconstruction"]


class Reconstruction(NamedTuple):
    """What comes back from the codes, the codes, and the term that pulls latents to their codes."""

    signal: Float[Tensor, "batch channel time"]
    codes: Int[Tensor, "batch frame site level"]
    commit: Float[Tensor, ""]


class BrainTokMix(nn.Module):
    """Encoder, quantiser and decoder; see the module.

    Args:
        n_channels: channels of the signal, in an order that never changes.
        n_filters: width of the first layer of the encoder; it doubles at every ratio.
        n_dim: width of the latent of a frame.
        ratios: decimations; ``hop`` is their product.
        kernel: taps of the first layers.
        last_kernel: taps of the last layers.
        residual_layers: residual blocks per stage.
        lstm_layers: recurrent layers; with any, a code depends on everything before it.
        n_neuro: places that the latent is cut into.
        codebook_size: codes per level.
        codebook_dim: width of a code; None: that of a place, ``n_dim / n_neuro``.
        n_levels: levels of the quantiser.
        fsq_levels: grid of a finite scalar quantiser, as [8, 8, 8, 8]; it takes the codebooks' place, whose keywords
            then have no effect.
        decay: of the codebooks' moving averages.
        dead_below: a code with fewer vectors per batch, in moving average, is put onto a vector of the batch.
        kmeans_iterations: of k-means on the first training batch.
        rotation: gradients through the quantiser keep their angle to the latent; else straight through.
        commit: weight of the pull towards the codes.
        chunk_frames: frames coded at once, so that memory does not grow with the recording.
        seed: of the codebooks' random choices.

    Raises:
        InvalidValue: if the sizes do not fit together.
    """

    def __init__(
        self,
        n_channels: int,
        *,
        n_filters: int = 1024,
        n_dim: int = 4096,
        ratios: Sequence[int] = (2, 2),
        kernel: int = 5,
        last_kernel: int = 5,
        residual_layers: int = 2,
        lstm_layers: int = 0,
        n_neuro: int = 4,
        codebook_size: int = 16384,
        codebook_dim: int | None = None,
        n_levels: int = 4,
        fsq_levels: Sequence[int] | None = None,
        decay: float = 0.99,
        dead_below: float = 2.0,
        kmeans_iterations: int = 10,
        rotation: bool = True,
        commit: float = 0.25,
        chunk_frames: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if n_neuro < 1 or n_dim % n_neuro:
            raise InvalidValue("n_neuro", n_neuro, f"expected a divisor of n_dim={n_dim}")
        if chunk_frames < 1:
            raise InvalidValue("chunk_frames", chunk_frames, "expected at least 1")
        self.n_channels, self.n_dim, self.n_sites, self.chunk_frames = n_channels, n_dim, n_neuro, chunk_frames
        sizes = {"n_filters": n_filters, "kernel": kernel, "last_kernel": last_kernel}
        depth = {"residual_layers": residual_layers, "lstm_layers": lstm_layers}
        self.encoder = SEANetEncoder(n_channels, n_dim, ratios=ratios, **sizes, **depth)
        self.decoder = SEANetDecoder(n_channels, n_dim, ratios=ratios, **sizes, **depth)
        self.quantiser: ResidualVectorQuantiser | FiniteScalarQuantiser
        if fsq_levels is None:
            self.quantiser = ResidualVectorQuantiser(
                n_dim // n_neuro,
                codebook_size,
                n_levels,
                codebook_dim=codebook_dim,
                decay=decay,
                dead_below=dead_below,
                kmeans_iterations=kmeans_iterations,
                rotation=rotation,
                commit=commit,
                seed=seed,
            )
        else:
            self.quantiser = FiniteScalarQuantiser(fsq_levels, n_dim // n_neuro, n_levels)
        self.hop = self.encoder.hop
        self.n_levels, self.vocab_size = n_levels, self.quantiser.vocab_size
        self.receptive_field = self.encoder.receptive_field
        self._settings = {"n_channels": n_channels, "ratios": list(ratios), "sites": n_neuro, **sizes, **depth}

    def forward(self, signal: Float[Tensor, "batch channel time"]) -> Reconstruction:
        """Code and decode windows of any length; the last frame is filled up with zeros and cut again."""
        latent = self.latent(signal)
        quantised = self.quantise(latent)
        decoded = self.decoder(self._joined(quantised.values))[..., : signal.shape[-1]]
        return Reconstruction(decoded, quantised.codes, quantised.commit)

    @property
    def code_vectors(self) -> Float[Tensor, "level code dim"] | None:
        """The codebooks; None for a finite scalar quantiser, whose codes are a grid."""
        return self.quantiser.codebooks if isinstance(self.quantiser, ResidualVectorQuantiser) else None

    def latent(self, signal: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch frame site width"]:
        """What is quantised: one vector for every place of every frame."""
        if signal.ndim != 3 or signal.shape[1] != self.n_channels:
            raise ShapeMismatch("signal", tuple(signal.shape), f"expected (batch, {self.n_channels}, time)")
        return self.encoder(signal).transpose(1, 2).unflatten(-1, (self.n_sites, -1))

    def quantise(self, latent: Float[Tensor, "batch frame site width"]) -> Quantised:
        """Codes of latents and the vectors that they stand for."""
        return self.quantiser(latent)

    @torch.no_grad()
    def encode(self, signal: Float[Tensor, "batch channel time"]) -> Int[Tensor, "batch frame site level"]:
        """Codes of a signal whose length is a multiple of ``hop``; nothing is learned from it.

        Raises:
            ShapeMismatch: for another number of channels, or an incomplete last frame.
        """
        n_time = signal.shape[-1]
        if n_time % self.hop or not n_time:
            raise ShapeMismatch("signal", tuple(signal.shape), f"expected a time that is a multiple of {self.hop}")
        past = -(-self.receptive_field // self.hop)
        codes = []
        for start, stop, lead in _pieces(n_time // self.hop, self.chunk_frames, past):
            latent = self.latent(signal[..., (start - lead) * self.hop : stop * self.hop])
            codes.append(self.quantiser.encode(latent[:, lead:]))
        return torch.cat(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "batch frame site level"]) -> Float[Tensor, "batch channel time"]:
        """The signal of codes, ``hop`` samples per frame; the first levels alone give a coarser one.

        Raises:
            ShapeMismatch: for another number of places, or more levels than there are.
            InvalidValue: for codes that do not exist.
        """
        if codes.ndim != 4 or codes.shape[2] != self.n_sites or not 1 <= codes.shape[3] <= self.n_levels:
            shape = f"expected (batch, frame, {self.n_sites}, {self.n_levels} or fewer levels)"
            raise ShapeMismatch("codes", tuple(codes.shape), shape)
        if codes.numel():
            low, high = (int(value) for value in torch.aminmax(codes))
            if low < 0 or high >= self.vocab_size:
                raise InvalidValue("codes", f"{low}…{high}", f"expected 0…{self.vocab_size - 1}")
        signal = []
        for start, stop, lead in _pieces(codes.shape[1], self.chunk_frames, self.decoder.past_frames):
            decoded = self.decoder(self._joined(self.quantiser.decode(codes[:, start - lead : stop])))
            signal.append(decoded[..., lead * self.hop :])
        return torch.cat(signal, dim=-1)

    @torch.no_grad()
    def without_codes(self, signal: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """What the decoder makes of latents that were not quantised: what the codes cost is the difference."""
        return self.decoder(self._joined(self.latent(signal)))[..., : signal.shape[-1]]

    def _joined(self, places: Tensor) -> Tensor:
        return places.flatten(2).transpose(1, 2)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a code depends on, and of what it decodes to."""
        digest = hashlib.sha256(json.dumps(self._settings, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:32]


def _pieces(n_frames: int, size: int, past: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, frames to take along before start) of the pieces of a recording."""
    for start in range(0, n_frames, size):
        yield start, min(start + size, n_frames), min(past, start)
