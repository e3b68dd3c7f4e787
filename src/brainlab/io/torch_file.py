"""Reading files written by ``torch.save`` without running them."""

from __future__ import annotations

import pickle
import re
import warnings
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

    mapped = memory_map and zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # asks to report a pickle protocol that torch did not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # torch wraps the reason into paragraphs of advice
        found = re.search(r"(unsupported )?GLOBAL ([\w.]+)", str(error), re.IGNORECASE)
        if found is None:
            raise _damaged(path) from error
        raise InvalidFile(
            "torch file",
            path,
            f"expected only tensors and plain containers; nothing of it was run (it asks for {found[2]})",
            hint="save a plain state_dict or a dictionary of tensors instead of whole objects",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InvalidFile:
    reason = "the file is empty" if path.stat().st_size == 0 else "it is damaged or of another format"
    return InvalidFile("torch file", path, f"expected a complete file written by torch.save, {reason}")
