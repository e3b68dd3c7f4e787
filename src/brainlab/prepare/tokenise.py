"""From prepared signals to codes: whatever tokenizer is passed in, once per store, in pieces of any length.

A piece is encoded together with the samples before it that its codes may depend on (the tokenizer's
``receptive_field``), whose own codes are dropped: the result is that of one pass over the segment.
"""

from __future__ import annotations

import functools
import hashlib
import math
import pickletools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32, Int64

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.codes import CodeWriter
from brainlab.types import Tokenizer

__all__ = ["TrainedTokenizer", "encode_in_pieces", "tokenise_store"]

_LISTED = 6
_LOOKED_AT = 2**24
_CALLS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX")
Read = Callable[[int, int, int], np.ndarray]


def encode_in_pieces(
    read: Callable[[int, int], Float32[np.ndarray, "channel time"]],
    n_samples: int,
    tokenizer: Tokenizer,
    piece: int = 8192,
) -> Int64[np.ndarray, "frame site level"]:
    """Codes of a run of samples, of which only pieces are in memory.

    Args:
        read: ``read(start, length)`` → (channel, time), ``start`` counted from the beginning of the run.
        n_samples: length of the run; what does not fill a frame at its end has no code.
        tokenizer: see :class:`brainlab.types.Tokenizer`.
        piece: samples that are encoded at once, rounded to frames.

    Returns:
        the same codes as one call over the whole run.
    """
    import torch

    hop = tokenizer.hop
    n_frames, step = n_samples // hop, max(1, piece // hop)
    carry = math.ceil(tokenizer.receptive_field / hop)
    pieces = [np.empty((0, tokenizer.n_sites, tokenizer.n_levels), np.int64)]
    for frame in range(0, n_frames, step):
        first, last = max(0, frame - carry), min(frame + step, n_frames)
        signal = torch.from_numpy(np.ascontiguousarray(read(first * hop, (last - first) * hop), np.float32))
        with torch.inference_mode():
            codes = torch.as_tensor(tokenizer.encode(signal[None])).cpu().numpy()
        expected = (1, last - first, tokenizer.n_sites, tokenizer.n_levels)
        if codes.shape != expected:
            raise ShapeMismatch("codes", codes.shape, f"expected {expected} of {type(tokenizer).__name__}")
        pieces.append(codes[0, frame - first :].astype(np.int64))
    return np.concatenate(pieces)


def tokenise_store(
    folder: Path,
    names: Sequence[str],
    segments: Sequence[Sequence[tuple[int, int]]],
    read: Read,
    tokenizer: Tokenizer,
    *,
    sources: dict[str, str] | None = None,
    piece: int = 8192,
) -> None:
    """Write the codes of every segment of every session into ``folder``.

    Args:
        folder: of the :class:`~brainlab.io.codes.CodeStore`.
        names: of the sessions.
        segments: usable runs [start, stop) in samples, per session.
        read: ``read(session, start, length)`` → (channel, time) float32, channels as the tokenizer expects them.
        tokenizer: see :class:`brainlab.types.Tokenizer`.
        sources: fingerprints of the signals and of the tokenizer, for the index.
        piece: samples that are encoded at once.
    """
    with CodeWriter(
        folder,
        hop=tokenizer.hop,
        n_sites=tokenizer.n_sites,
        n_levels=tokenizer.n_levels,
        vocab_size=tokenizer.vocab_size,
        sources=sources,
    ) as writer:
        for number, (name, runs) in enumerate(zip(names, segments, strict=True)):
            coded = []
            for start, stop in runs:

                def part(first: int, length: int, session: int = number, offset: int = start) -> np.ndarray:
                    return read(session, offset + first, length)

                coded.append((start, encode_in_pieces(part, stop - start, tokenizer, piece)))
            writer.add_session(name, coded)


class TrainedTokenizer:
    """A tokenizer network with the weights of a finished training, in evaluation mode.

    ``trained_with`` holds the settings of the data that the network was trained on, None where the file does not tell.

    Args:
        n_channels: rows of a signal.
        network: makes the network when called with ``n_channels``; it has the attributes of a tokenizer.
        checkpoint: file with a ``state_dict`` whose ``network.…`` entries are the network's weights (a training's
            checkpoint), or with the network's own state dict.

    Raises:
        InvalidValue: there is no checkpoint.
        InvalidFile: the file is damaged or would run code.
        ShapeMismatch: the weights are those of another architecture; the sentence names what differs.
    """

    def __init__(self, n_channels: int, network: Callable[..., Any], checkpoint: str | Path | None = None) -> None:
        from brainlab.io.torch_file import load_torch

        if checkpoint is None:
            raise InvalidValue(
                "data.tokenizer.checkpoint", None, "expected a checkpoint of a trained tokenizer",
                hint="train one with experiment=meg_tokenizer",
            )  # fmt: skip
        path = Path(checkpoint).expanduser()
        hint = "checkpoints/best.ckpt of a run of experiment=meg_tokenizer is one"
        self.network = network(n_channels=n_channels)
        try:
            state = load_torch(path)
        except InvalidFile as error:
            expected = error.expected
            if "nothing of it was run" not in expected and _asks_for_code(path):
                expected = "expected only tensors and plain containers; it asks for code, of which nothing was run"
            raise InvalidFile("data.tokenizer.checkpoint", path, expected, hint=hint) from error
        if not isinstance(state, dict):
            raise InvalidFile(
                "data.tokenizer.checkpoint", path, f"expected a dictionary, found {type(state).__name__}", hint=hint
            )  # fmt: skip
        self.trained_with = _data_settings(state)
        weights = _network_weights(state.get("state_dict", state))
        _expect_same(self.network.state_dict(), weights, path, _spelled(network))
        self.network.load_state_dict(weights, strict=True)
        self.network.eval().requires_grad_(False)
        self.n_channels = int(n_channels)
        self.hop, self.n_sites = int(self.network.hop), int(self.network.n_sites)
        self.n_levels, self.vocab_size = int(self.network.n_levels), int(self.network.vocab_size)
        self.receptive_field = int(self.network.receptive_field)
        self.fingerprint = self._hash(_spelled(network))

    @property
    def code_vectors(self) -> Any:
        """What the codes stand for, (level, code, dim), where they are entries of codebooks; else None."""
        return getattr(self.network, "code_vectors", None)

    def _hash(self, settings: str) -> str:
        import torch

        digest = hashlib.sha256(f"{settings}\0{self.n_channels}\0".encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().tobytes() if values.numel() else b"")
        return digest.hexdigest()

    def encode(self, signal: Any) -> Any:
        """(batch, channel, time) float32 → codes (batch, frame, site, level) int64."""
        import torch

        with torch.inference_mode():
            return self.network.encode(signal.to(self._device)).to(signal.device)

    def decode(self, codes: Any) -> Any:
        """Codes → (batch, channel, frame · hop) float32."""
        import torch

        with torch.inference_mode():
            return self.network.decode(codes.to(self._device)).to(codes.device)

    def to(self, device: Any) -> TrainedTokenizer:
        """Move the network; signals and codes may lie anywhere."""
        self.network.to(device)
        return self

    @property
    def _device(self) -> Any:
        import torch

        return next(iter([*self.network.parameters(), *self.network.buffers()]), torch.empty(0)).device


def _spelled(value: Any) -> str:
    """Settings of a network as text that is the same in every process: no addresses of objects."""
    if isinstance(value, functools.partial):
        words = [f"{key}={_spelled(item)}" for key, item in sorted(value.keywords.items())]
        return f"{_spelled(value.func)}({', '.join([*map(_spelled, value.args), *words])})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _asks_for_code(path: Path) -> bool:
    """Whether a file that torch refuses is a pickle that imports or calls something; it is looked at, never loaded."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        else:
            with path.open("rb") as stream:
                content = stream.read(_LOOKED_AT)
        return any(code.name in _CALLS for code, *_ in pickletools.genops(content))
    except Exception:
        return False  # no pickle at all


def _data_settings(state: dict[str, Any]) -> dict[str, Any] | None:
    """The ``data`` of the configuration that a run keeps in its checkpoints."""
    kept = state.get("brainlab")
    text = kept.get("config") if isinstance(kept, dict) else None
    if not isinstance(text, str):
        return None
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    data = found.get("data") if isinstance(found, dict) else None
    return data if isinstance(data, dict) else None


def _network_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The network's own entries: those under ``network.`` where there are any; a compiled network's prefix goes."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    own = {key.removeprefix("network."): value for key, value in plain.items() if key.startswith("network.")}
    return own or plain


def _expect_same(own: dict[str, Any], given: dict[str, Any], path: Path, settings: str) -> None:
    missing, unknown = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(given))
        if own[key].shape != given[key].shape
    ]
    if not (missing or unknown or shapes):
        return
    said = [
        f"{word}: {', '.join(names[:_LISTED])}" + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        for word, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    raise ShapeMismatch(
        "data.tokenizer.checkpoint", path, f"expected the weights of {settings}; {'; '.join(said)}",
        hint="data.tokenizer.network must be what the checkpoint was trained with",
    )  # fmt: skip
