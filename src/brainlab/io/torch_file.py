"""Reading files written by ``torch.save`` without running them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from brainlab.errors import InvalidFile

__all__ = ["load_torch"]


def load_torch(path: Path | str, *, memory_map: bool = True) -> Any:
    """Tensors and plain containers of a ``.pt`` or ``.pth`` file, on the CPU.

    Args:
        path: the file.
        memory_map: leave tensor bytes on disk until they are used, where the file's format allows it.

    Raises:
        InvalidFile: if it is missing, damaged, or asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidFile("file", path, "expected an existing file written by torch.save")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=memory_map and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()
        asked = next((line.strip() for line in first if "GLOBAL" in line or "Unsupported" in line), first[0])
        raise InvalidFile(
            "torch file",
            path,
            f"expected only tensors and plain containers; nothing of it was run ({asked})",
            hint="save a plain state_dict or a dictionary of tensors instead of whole objects",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidFile(
            "torch file", path, f"expected a complete file written by torch.save ({first_line})"
        ) from None
