"""Causal convolutional encoder and decoder in the manner of SEANet (Tagliasacchi et al., 2020, arXiv:2009.02095).

Every layer looks into the past alone: an output of a frame depends on that frame and on a known number of samples
before it, so that a long recording may be coded in pieces that overlap by this number, with the same result. Padding
is by zeros. Every convolution is weight-normalised (Salimans and Kingma, 2016, arXiv:1602.07868): a direction and one
gain per output channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from brainlab.errors import InvalidValue

__all__ = ["CausalConv1d", "CausalConvTranspose1d", "SEANetDecoder", "SEANetEncoder"]

UNBOUNDED = 1 << 62
"""The past of a recurrent layer: everything."""


class _WeightNormed(nn.Module):
    def __init__(self, shape: tuple[int, int, int], out_axis: int, fan_in: int) -> None:
        super().__init__()
        self.out_axis = out_axis
        self.weight = nn.Parameter(torch.empty(shape))
        # One number per output channel, kept as a vector: weight decay acts on matrices and filters.
        self.gain = nn.Parameter(torch.empty(shape[out_axis]))
        self.bias = nn.Parameter(torch.empty(shape[out_axis]))
        bound = 1 / math.sqrt(fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            self.gain.copy_(self._norm().flatten())

    def _norm(self) -> Tensor:
        axes = [axis for axis in range(3) if axis != self.out_axis]
        return self.weight.square().sum(dim=axes, keepdim=True).sqrt()

    @property
    def filters(self) -> Tensor:
        """The filters: gain · direction / |direction|."""
        shape = [1, 1, 1]
        shape[self.out_axis] = -1
        return self.weight * (self.gain.view(shape) / self._norm())


class CausalConv1d(_WeightNormed):
    """A convolution padded on the left by ``(kernel − 1) · dilation − (stride − 1)`` zeros.

    An output frame sees its own ``stride`` samples and ``padding`` samples before them.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        kernel: taps.
        stride: samples per output frame.
        dilation: distance of taps.

    Raises:
        InvalidValue: if the kernel does not cover the stride.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__((n_out, n_in, kernel), out_axis=0, fan_in=n_in * kernel)
        self.stride, self.dilation = stride, dilation
        self.padding = (kernel - 1) * dilation - (stride - 1)
        if self.padding < 0:
            raise InvalidValue("kernel", kernel, f"expected at least the stride, {stride}")

    def forward(self, x: Float[Tensor, "batch inputs time"]) -> Float[Tensor, "batch outputs frame"]:
        """Filter; frames = time // stride."""
        return F.conv1d(F.pad(x, (self.padding, 0)), self.filters, self.bias, self.stride, dilation=self.dilation)


class CausalConvTranspose1d(_WeightNormed):
    """A transposed convolution trimmed on the right: sample n depends on the frames up to ``n // stride``.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        kernel: taps, at least ``stride``.
        stride: samples per input frame.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        if kernel < stride:
            raise InvalidValue("kernel", kernel, f"expected at least the stride, {stride}")
        super().__init__((n_in, n_out, kernel), out_axis=1, fan_in=n_in * kernel // stride)
        self.stride = stride
        self.past_frames = (kernel - 1) // stride

    def forward(self, x: Float[Tensor, "batch inputs frame"]) -> Float[Tensor, "batch outputs time"]:
        """Spread frames over time; time = frames · stride."""
        spread = F.conv_transpose1d(x, self.filters, self.bias, self.stride)
        return spread[..., : x.shape[-1] * self.stride]


class _Residual(nn.Module):
    """x + conv₁(ELU(conv₃(ELU(x)))) with half the channels in between."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.spread = CausalConv1d(width, max(1, width // 2), 3, dilation=dilation)
        self.gather = CausalConv1d(max(1, width // 2), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gather(F.elu(self.spread(F.elu(x))))


def _residuals(width: int, n_layers: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(width, 2**layer) for layer in range(n_layers)))


class _Recurrent(nn.Module):
    """Long short-term memory over frames, with a residual."""

    def __init__(self, width: int, n_layers: int) -> None:
        super().__init__()
        self.cells = nn.LSTM(width, width, n_layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cells(x.transpose(1, 2))[0].transpose(1, 2)


class SEANetEncoder(nn.Module):
    """Signals to one latent vector per frame of ``hop`` samples.

    Args:
        n_channels: channels of the signal; all of them enter the first filters together.
        n_dim: width of the latent.
        n_filters: width of the first layer; it doubles at every ratio.
        ratios: decimation of the stages in the order of the decoder; the encoder takes them from the back.
        kernel: taps of the first layer.
        last_kernel: taps of the last layer.
        residual_layers: residual blocks per stage, with dilations 1, 2, 4, …
        lstm_layers: recurrent layers over the latent; 0: none.
    """

    def __init__(
        self,
        n_channels: int,
        n_dim: int,
        *,
        n_filters: int,
        ratios: Sequence[int] = (2, 2),
        kernel: int = 5,
        last_kernel: int = 5,
        residual_layers: int = 2,
        lstm_layers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(n_channels, n_dim, n_filters, ratios, residual_layers)
        self.hop = math.prod(ratios)
        self.first = CausalConv1d(n_channels, n_filters, kernel)
        self.stages = nn.ModuleList()
        width = n_filters
        for ratio in reversed(ratios):
            residual = _residuals(width, residual_layers)
            down = CausalConv1d(width, 2 * width, 2 * ratio, stride=ratio)
            self.stages.append(nn.ModuleDict({"residual": residual, "down": down}))
            width *= 2
        self.recurrent = _Recurrent(width, lstm_layers) if lstm_layers else None
        self.last = CausalConv1d(width, n_dim, last_kernel)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch dim frame"]:
        """The latent of each frame; frames = ceil(time / hop), the last one filled up with zeros."""
        x = self.first(F.pad(x, (0, -x.shape[-1] % self.hop)))
        for stage in self.stages:
            x = stage["down"](F.elu(stage["residual"](x)))
        if self.recurrent is not None:
            x = self.recurrent(x)
        return self.last(F.elu(x))

    @property
    def receptive_field(self) -> int:
        """Samples before its own frame that a latent depends on."""
        if self.recurrent is not None:
            return UNBOUNDED
        layers = [layer for layer in self.modules() if isinstance(layer, CausalConv1d)]
        past = 0
        for layer in reversed(layers):
            past = past * layer.stride + layer.padding
        return past


class SEANetDecoder(nn.Module):
    """Latent vectors back to signals: the encoder's stages in the opposite order; arguments as there."""

    def __init__(
        self,
        n_channels: int,
        n_dim: int,
        *,
        n_filters: int,
        ratios: Sequence[int] = (2, 2),
        kernel: int = 5,
        last_kernel: int = 5,
        residual_layers: int = 2,
        lstm_layers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(n_channels, n_dim, n_filters, ratios, residual_layers)
        self.hop = math.prod(ratios)
        width = n_filters * 2 ** len(ratios)
        self.first = CausalConv1d(n_dim, width, kernel)
        self.recurrent = _Recurrent(width, lstm_layers) if lstm_layers else None
        self.stages = nn.ModuleList()
        for ratio in ratios:
            width //= 2
            up = CausalConvTranspose1d(2 * width, width, 2 * ratio, ratio)
            self.stages.append(nn.ModuleDict({"up": up, "residual": _residuals(width, residual_layers)}))
        self.last = CausalConv1d(width, n_channels, last_kernel)

    def forward(self, latent: Float[Tensor, "batch dim frame"]) -> Float[Tensor, "batch channel time"]:
        """The signal of each frame; time = frames · hop."""
        x = self.first(latent)
        if self.recurrent is not None:
            x = self.recurrent(x)
        for stage in self.stages:
            x = stage["residual"](stage["up"](F.elu(x)))
        return self.last(F.elu(x))

    @property
    def past_frames(self) -> int:
        """Frames before its own that a sample depends on."""
        if self.recurrent is not None:
            return UNBOUNDED
        past = 0
        for layer in reversed([m for m in self.modules() if isinstance(m, CausalConv1d | CausalConvTranspose1d)]):
            if isinstance(layer, CausalConv1d):
                past += layer.padding
            else:
                past = -(-past // layer.stride) + layer.past_frames
        return past


def check_sizes(n_channels: int, n_dim: int, n_filters: int, ratios: Sequence[int], residual_layers: int) -> None:
    """Refuse sizes that no network can have."""
    for name, value in (("n_channels", n_channels), ("n_dim", n_dim), ("n_filters", n_filters)):
        if value < 1:
            raise InvalidValue(name, value, "expected at least 1")
    if not ratios or min(ratios) < 1:
        raise InvalidValue("ratios", list(ratios), "expected decimations of at least 1")
    if residual_layers < 0:
        raise InvalidValue("residual_layers", residual_layers, "expected at least 0")
