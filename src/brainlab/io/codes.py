"""Codes of a prepared store on disk: one memory map per session, frame by frame.

A frame stands for ``hop`` samples of a segment (a usable run of a session) and holds ``n_sites × n_levels`` codes. The
store knows nothing of windows: any window, overlap or split that starts on a frame is read from the same codes.

On disk a session is (frame, site, level) of little-endian uint16, or uint32 where the vocabulary needs it; a JSON
index says which frames belong to which segment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from brainlab.errors import InvalidFile, InvalidValue, ShapeMismatch
from brainlab.io.atomic import write_atomically

__all__ = ["CodeSession", "CodeStore", "CodeWriter"]

_FORMAT = "brainlab-codes"
_VERSION = 1
_INDEX = "codes.json"


@dataclass(frozen=True)
class CodeSession:
    """The codes of one session; ``segments`` are rows (first sample, first frame, number of frames)."""

    name: str
    file: str
    n_frames: int
    segments: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class _Shape:
    hop: int
    n_sites: int
    n_levels: int
    vocab_size: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")


class CodeWriter:
    """Writes the codes of one session after the other; the index comes last.

    >>> import tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> with CodeWriter(folder, hop=2, n_sites=1, n_levels=1, vocab_size=9) as writer:
    ...     writer.add_session("sub-01", [(10, np.arange(3).reshape(3, 1, 1))])
    >>> CodeStore(folder).read(0, 12, 2).ravel()
    array([1, 2])

    Args:
        folder: empty or new.
        hop: samples per frame.
        n_sites: codes per frame and level.
        n_levels: stages of the quantiser.
        vocab_size: codes lie in [0, vocab_size).
        sources: fingerprints of what the codes were made from, for the index.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        hop: int,
        n_sites: int,
        n_levels: int,
        vocab_size: int,
        sources: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shape, self.sources = _Shape(hop, n_sites, n_levels, vocab_size), dict(sources or {})
        self._sessions: list[CodeSession] = []
        self._digest = hashlib.sha256()

    def add_session(self, name: str, segments: Sequence[tuple[int, Int[np.ndarray, "frame site level"]]]) -> None:
        """Append the codes of one session.

        Args:
            name: as in the store of signals.
            segments: (first sample, codes) of every usable run, in order of time.

        Raises:
            ShapeMismatch: codes are not (frame, site, level).
            InvalidValue: a code lies outside the vocabulary, or runs overlap.
        """
        file, frame, known, last = f"{len(self._sessions):05d}.codes", 0, [], 0
        with open(self.folder / file, "wb") as stream:
            for start, codes in segments:
                array = np.asarray(codes)
                if array.ndim != 3 or array.shape[1:] != (self.shape.n_sites, self.shape.n_levels):
                    raise ShapeMismatch(
                        "codes",
                        array.shape,
                        f"expected (frame, {self.shape.n_sites}, {self.shape.n_levels})",
                        where=name,
                    )
                if array.size and (array.min() < 0 or array.max() >= self.shape.vocab_size):
                    worst = array.min() if array.min() < 0 else array.max()
                    raise InvalidValue("code", worst, f"expected 0 to {self.shape.vocab_size - 1}", where=name)
                if start < last:
                    raise InvalidValue("segment", start, f"expected it after sample {last}", where=name)
                raw = array.astype(self.shape.dtype).tobytes()
                self._digest.update(f"{name}:{start}\0".encode() + raw)
                stream.write(raw)
                known.append((int(start), frame, len(array)))
                frame += len(array)
                last = start + len(array) * self.shape.hop
        self._sessions.append(CodeSession(name, file, frame, tuple(known)))

    def close(self) -> None:
        """Write the index; the folder is a store of codes from here on."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            **asdict(self.shape),
            "sources": self.sources,
            "sessions": [asdict(session) for session in self._sessions],
            "sha256": self._digest.hexdigest(),
        }
        write_atomically(self.folder / _INDEX, json.dumps(content))

    def __enter__(self) -> CodeWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


class CodeStore:
    """Codes opened for reading; memory maps are opened at first use in each process.

    Raises:
        InvalidFile: the folder holds no codes, another version, or a file of another size; when read, codes outside the
            vocabulary.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path, hint = self.folder / _INDEX, self._hint
        try:
            content = json.loads(path.read_text())
            if content.get("format") != _FORMAT or content.get("version") != _VERSION:
                raise InvalidFile("codes", path, f"expected format {_FORMAT} version {_VERSION}", hint=hint)
            self._shape = _Shape(*(int(content[key]) for key in ("hop", "n_sites", "n_levels", "vocab_size")))
            self.fingerprint: str = content["sha256"]
            self.sources: dict[str, str] = content["sources"]
            self.sessions = tuple(
                CodeSession(
                    entry["name"], entry["file"], int(entry["n_frames"]),
                    tuple((int(a), int(b), int(c)) for a, b, c in entry["segments"]),
                )
                for entry in content["sessions"]
            )  # fmt: skip
        except OSError as error:
            raise InvalidFile("codes", path, f"expected the index of a store of codes ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile("codes", path, f"expected the index of a store of codes ({error})", hint=hint) from None
        self.hop, self.n_sites = self._shape.hop, self._shape.n_sites
        self.n_levels, self.vocab_size = self._shape.n_levels, self._shape.vocab_size
        self._maps: dict[int, np.ndarray] = {}
        bytes_per_frame = self.n_sites * self.n_levels * self._shape.dtype.itemsize
        for session in self.sessions:
            file, size = self.folder / session.file, session.n_frames * bytes_per_frame
            found = file.stat().st_size if file.exists() else -1
            if found != size:
                raise InvalidFile("codes", file, f"expected {size} bytes, found {max(found, 0)}", hint=hint)

    @property
    def _hint(self) -> str:
        return f"delete the folder {self.folder} and run again; it will be prepared anew"

    def __len__(self) -> int:
        return len(self.sessions)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _opened(self, session: int) -> np.ndarray:
        if session not in self._maps:
            if not 0 <= session < len(self.sessions):
                raise InvalidValue("session", session, f"expected a number from 0 below {len(self.sessions)}")
            entry = self.sessions[session]
            shape = (entry.n_frames, self.n_sites, self.n_levels)
            mapped = (
                np.memmap(self.folder / entry.file, self._shape.dtype, "r", shape=shape) if 0 not in shape else None
            )
            self._maps[session] = np.zeros(shape, self._shape.dtype) if mapped is None else np.asarray(mapped)
        return self._maps[session]

    def frame_at(self, session: int, start: int) -> int:
        """Number of the frame whose first sample is ``start``.

        Raises:
            InvalidValue: no frame begins there.
        """
        for first, frame, count in self.sessions[session].segments:
            if first <= start < first + count * self.hop:
                if (start - first) % self.hop:
                    break
                return frame + (start - first) // self.hop
        raise InvalidValue(
            "start", start, f"expected the first sample of a frame ({self.hop} samples, counted from its segment)",
            where=self.sessions[session].name,
        )  # fmt: skip

    def sample_of(self, session: int, frame: int) -> int:
        """First sample of a frame."""
        for first, known, count in self.sessions[session].segments:
            if known <= frame < known + count:
                return first + (frame - known) * self.hop
        raise InvalidValue("frame", frame, f"expected 0 to {self.sessions[session].n_frames - 1}")

    def read(self, session: int, start: int, n_frames: int) -> Int64[np.ndarray, "frame site level"]:
        """The codes of ``n_frames`` frames from sample ``start`` on, all in one segment."""
        frame = self.frame_at(session, start)
        self._expect_within(session, frame, n_frames)
        return self.gather(np.array([session]), np.array([frame]), n_frames)[0]

    def gather(
        self, sessions: Int[np.ndarray, " window"], frames: Int[np.ndarray, " window"], n_frames: int
    ) -> Int64[np.ndarray, "window frame site level"]:
        """A batch of windows that begin at these frames; the caller keeps them inside their segments."""
        numbers, firsts = np.asarray(sessions).tolist(), np.asarray(frames).tolist()
        out = np.empty((len(numbers), n_frames, self.n_sites, self.n_levels), np.int64)
        for window, number, first in zip(out, numbers, firsts, strict=True):
            codes = self._opened(number)
            if first < 0 or n_frames < 1 or first + n_frames > len(codes):
                raise InvalidValue("frames", (first, n_frames), f"expected them within {len(codes)} frames")
            window[...] = codes[first : first + n_frames]
        if out.size and out.max() >= self.vocab_size:  # an embedding would only say that an index is out of range
            at = int(out.reshape(len(out), -1).max(1).argmax())
            file = self.folder / self.sessions[numbers[at]].file
            raise InvalidFile("codes", file, f"expected 0 to {self.vocab_size - 1}, found {out.max()}", hint=self._hint)
        return out

    def _expect_within(self, session: int, frame: int, n_frames: int) -> None:
        for _, first, count in self.sessions[session].segments:
            if first <= frame < first + count and n_frames >= 1 and frame + n_frames <= first + count:
                return
        raise InvalidValue(
            "n_frames", n_frames, f"expected at least 1, inside the segment of frame {frame}",
            where=self.sessions[session].name,
        )  # fmt: skip
