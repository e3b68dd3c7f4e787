"""BrainVision headers that state the wrong number format.

A header is text, and tools that rewrite data files forget it. What the bytes are is decided by three witnesses: the
header's format, the length that the header's ``DataPoints`` or the BIDS sidecar's ``RecordingDuration`` gives, and the
bytes themselves: samples of 16 bits read as single precision are absurdly small, huge or not numbers, and the other
way round the lower halves of floats fill all 16 bits evenly.
"""

from __future__ import annotations

import configparser
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainlab.errors import InvalidFile

__all__ = ["Header", "open_with_format", "read_header", "true_format"]

FORMATS = {"INT_16": "<i2", "INT_32": "<i4", "IEEE_FLOAT_32": "<f4"}
_SENSIBLE = (1e-9, 1e9)  # µV in any resolution that amplifiers use
_NEARLY_ALL = 0.999
_LOOKED_AT = 1 << 18


@dataclass(frozen=True)
class Header:
    """What a ``.vhdr`` says of its data file; ``without_unit`` are the channels whose unit it leaves open."""

    path: Path
    data: Path
    format: str
    n_channels: int
    sfreq_hz: float
    n_samples: int | None
    without_unit: tuple[str, ...]


def read_header(path: Path | str) -> Header | None:
    """The parts of a header that say how to read the bytes; None for text data or a header that MNE must judge."""
    path = Path(path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = text[text.find("[") :] if "[" in text else ""
    try:
        parser.read_string(re.split(r"^\[Comment\]", text, maxsplit=1, flags=re.MULTILINE)[0])
        common = parser["Common Infos"]
        points = common.get("DataPoints", "")
        header = Header(
            path=path,
            data=path.parent / common["DataFile"].replace("$b", path.stem),
            format=parser["Binary Infos"]["BinaryFormat"].strip(),
            n_channels=int(common["NumberOfChannels"]),
            sfreq_hz=1e6 / float(common["SamplingInterval"]),
            n_samples=int(points) if points.strip().isdigit() else None,
            without_unit=tuple(
                fields[0].replace("\\1", ",")
                for entry in parser["Channel Infos"].values()
                if len(fields := str(entry).split(",")) < 4 or not fields[3].strip()
            ),
        )
    except (configparser.Error, KeyError, ValueError, ZeroDivisionError):
        return None
    known = header.format in FORMATS and header.n_channels > 0 and header.data.is_file()
    return header if known and common.get("DataFormat", "BINARY").strip() == "BINARY" else None


def true_format(header: Header, duration_s: float | None = None) -> tuple[str, str | None]:
    """The number format of the data file, and a note where it is not the header's.

    Args:
        header: what the header says.
        duration_s: length of the recording by a witness outside, such as the BIDS sidecar.

    Raises:
        InvalidFile: if the header's format cannot be right and no other is certain.
    """
    size, said = header.data.stat().st_size, header.format
    fits = {name: _fits(header, name, size, duration_s) for name in FORMATS}
    seen = _looks_like(header)
    if seen in (None, said) or (seen != "IEEE_FLOAT_32" != said and not fits[seen]):
        return said, None if fits[said] is not False else _length_note(header, size, duration_s)
    same_length = _bytes_per_sample(header, seen) == _bytes_per_sample(header, said)
    if fits[seen] is not False and (same_length or not fits[said]):
        seconds = {name: size / _bytes_per_sample(header, name) / header.sfreq_hz for name in (said, seen)}
        sidecar = f"; the sidecar says {duration_s:g} s" if duration_s else ""
        return seen, (
            f"the header says {said} ({seconds[said]:.4g} s), the bytes are {seen} ({seconds[seen]:.4g} s{sidecar})"
        )
    stated = "the stated length fits the header" if fits[said] else "the stated length fits neither"
    raise InvalidFile(
        "recording",
        header.path,
        f"expected samples of the header's format {said}, its data look like {seen} and {stated}",
        hint="correct BinaryFormat in the header",
    )


def open_with_format(header: Header, name: str, units: Mapping[str, str] | None = None) -> Any:
    """MNE's object for the data file read in another format, or other units, than the header's; nothing is copied.

    Args:
        header: of the file.
        name: number format.
        units: channel → unit, for channels whose unit the header leaves open.
    """
    import mne

    with tempfile.TemporaryDirectory() as folder:
        corrected = Path(folder) / header.path.name
        corrected.write_text(_rewritten(header, name, units or {}), encoding="utf-8")
        return mne.io.read_raw_brainvision(corrected, preload=False, verbose="WARNING")


def _rewritten(header: Header, name: str, units: Mapping[str, str]) -> str:
    """The header's text with another number format, units, and absolute file names, to be read from anywhere."""
    raw = header.path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1").replace("ANSI", "UTF-8")

    def absolute(match: re.Match[str]) -> str:
        file = match.group(2).strip().replace("$b", header.path.stem)
        return f"{match.group(1)}{(header.path.parent / file).resolve()}"

    def with_unit(match: re.Match[str]) -> str:
        fields = match.group(2).rstrip("\r").split(",")
        unit = units.get(fields[0].replace("\\1", ","))
        if unit is None:
            return match.group(0)
        fields += [""] * (4 - len(fields))
        return match.group(1) + ",".join([*fields[:3], unit, *fields[4:]])

    text = re.sub(r"^(BinaryFormat\s*=).*$", rf"\g<1>{name}", text, flags=re.MULTILINE)
    text = re.sub(r"^((?:DataFile|MarkerFile)\s*=)(.+)$", absolute, text, flags=re.MULTILINE)
    return re.sub(r"^(Ch\d+\s*=)(.*)$", with_unit, text, flags=re.MULTILINE)


def _bytes_per_sample(header: Header, name: str) -> int:
    return header.n_channels * np.dtype(FORMATS[name]).itemsize


def _fits(header: Header, name: str, size: int, duration_s: float | None) -> bool | None:
    """Whether the file's size agrees with the stated length: yes, no, or nothing is stated."""
    n_samples, rest = divmod(size, _bytes_per_sample(header, name))
    if rest:
        return False
    if header.n_samples is not None:
        return abs(n_samples - header.n_samples) <= 1
    if duration_s is None:
        return None
    # Sidecars give the time of the last sample or of the end, often rounded to a whole second.
    tolerance = max(2 / header.sfreq_hz, 0.5 if duration_s == round(duration_s) and duration_s > 5 else 0.0)
    return abs(n_samples / header.sfreq_hz - duration_s) <= max(tolerance, 1e-3 * duration_s)


def _length_note(header: Header, size: int, duration_s: float | None) -> str:
    n_samples, rest = divmod(size, _bytes_per_sample(header, header.format))
    if rest:
        return "the data file ends inside a sample, the rest of which is left out"
    witness = f"{duration_s:g} s in the sidecar" if duration_s else f"{header.n_samples} samples in the header"
    return f"the file holds {n_samples} samples ({n_samples / header.sfreq_hz:.6g} s), which differs from {witness}"


def _looks_like(header: Header) -> str | None:
    """The one format that the bytes look like; None where several would do."""
    size = header.data.stat().st_size
    n_words = min(size, _LOOKED_AT) // 4 * 2
    if n_words < 2:
        return None
    start = (size - 2 * n_words) // 2 // 4 * 4  # from the middle: recordings start with silence
    words = np.array(np.memmap(header.data, "<i2", "r", start, (n_words,)))
    lower, upper = words[0::2].astype(int), words[1::2].astype(int)
    used = (lower != 0) | (upper != 0)
    if not used.any():
        return None
    lower, upper = lower[used], upper[used]
    with np.errstate(invalid="ignore"):
        sizes = np.abs(words.view("<f4")[used].astype(np.float64))
        as_float = float(np.mean((sizes >= _SENSIBLE[0]) & (sizes <= _SENSIBLE[1]))) > _NEARLY_ALL
    # The lower halves of floats and of large integers are as good as random; those of small ones are not.
    random = float(np.mean(np.abs(lower) > 1 << 14)) > 0.3
    if as_float:
        return "IEEE_FLOAT_32" if random else None
    sign_only = float(np.mean(upper == np.where(lower < 0, -1, 0))) > _NEARLY_ALL
    few_bits = float(np.mean(np.abs(upper) <= 1 << 8)) > _NEARLY_ALL
    return "INT_32" if sign_only or (few_bits and random) else "INT_16"
