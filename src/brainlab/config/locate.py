"""Says in which file and line a key of the composed configuration was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from brainlab.config.search_path import shown

__all__ = ["Origins", "files_of"]


class Origins:
    """The files that a configuration was composed from, first to last, with the key that each stands under.

    They are looked up when a message needs them: a configuration without errors never does.
    """

    def __init__(
        self,
        find: Callable[[], list[tuple[Path, str]]],
        overridden: Sequence[str] = (),
        *,
        elsewhere: str = "configuration",
    ) -> None:
        self._find = find
        self._elsewhere = elsewhere  # what to name where no file has the key
        self.overridden = tuple(overridden)

    @cached_property
    def files(self) -> list[tuple[Path, str]]:
        """Files with their packages in the order in which they were merged."""
        return self._find()

    def where(self, key: str) -> str:
        """``file:line`` of the last place that wrote ``key`` or, failing that, the nearest key above it."""
        if any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in self.overridden):
            return "command line"
        parts = _components(key)
        for length in range(len(parts), 0, -1):
            for file, package in reversed(self.files):
                line = _line(file, _components(package), parts[:length])
                if line is not None:
                    return f"{shown(file)}:{line}" if length == len(parts) else shown(file)
        return self._elsewhere

    def file(self, key: str) -> str:
        """The last file that says what ``key`` is: the one with its ``_target_``, else one that mentions it."""
        for name in (f"{key}._target_", key):
            found = [file for file, package in self.files if _line(file, _components(package), _components(name))]
            if found:
                return shown(found[-1])
        return self.where(key)


def files_of(defaults: Sequence[Any], folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """The files behind Hydra's final defaults list, found in the folders that it searched, in order."""
    files = []
    for default in defaults:
        if default.config_path is None:
            continue
        file = next((f for f in (folder / f"{default.config_path}.yaml" for folder in folders) if f.is_file()), None)
        if file is not None:
            files.append((file, default.package or ""))
    return files


def _components(key: str) -> list[str]:
    return [part for part in key.replace("[", ".").replace("]", "").split(".") if part and part != "_global_"]


def _line(file: Path, package: list[str], key: list[str]) -> int | None:
    if key[: len(package)] != package:
        return None
    with file.open(encoding="utf-8") as stream:
        node = yaml.compose(stream, Loader=yaml.SafeLoader)
    line: int | None = 1 if node is not None else None
    for part in key[len(package) :]:
        line, node = next(_entries(node, part), (None, None))
        if line is None:
            return None
    return line


def _entries(node: yaml.Node | None, part: str) -> Iterator[tuple[int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if str(name.value) == part:
                yield name.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        yield node.value[int(part)].start_mark.line + 1, node.value[int(part)]
