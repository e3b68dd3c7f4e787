"""Splits a command line into Hydra's flags, overrides and our folders."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from brainlab.errors import ConfigError

__all__ = ["CommandLine", "parse"]

_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")
_FOLDER = ("--config-dir", "-cd")
_ACTIONS = {
    "--cfg": "cfg",
    "-c": "cfg",
    "--info": "info",
    "-i": "info",
    "--help": "help",
    "-h": "help",
    "--hydra-help": "help",
    "--shell-completion": "completion",
    "-sc": "completion",
    "--version": "version",
}


@dataclass
class CommandLine:
    """``flags`` are Hydra's, ``overrides`` are ``key=value`` words, ``action`` is what is asked for."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)
    typed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # flags and overrides before rerun and resume act on them
    action: str = "run"
    multirun: bool = False

    def argv(self) -> list[str]:
        """Arguments for Hydra: flags first, since its parser refuses overrides on both sides of a flag."""
        return [*self.flags, *self.overrides]

    def pasteable(self, *, multirun: bool) -> str:
        """The command as one would type it, with or without ``-m``."""
        typed_flags, typed_overrides = self.typed
        flags = [flag for flag in typed_flags if flag not in ("-m", "--multirun", "-r", "--run")]
        folders = [word for folder in self.config_dirs for word in ("--config-dir", folder)]
        words = ["brainlab", *(["-m"] if multirun else []), *folders, *flags, *typed_overrides]
        return shlex.join(words)


def parse(arguments: Sequence[str]) -> CommandLine:
    """Sort ``arguments``; flags may stand before, between and after overrides.

    >>> parse(["model.lr=1", "--cfg", "job", "seed=2"]).argv()
    ['--cfg', 'job', 'model.lr=1', 'seed=2']

    Raises:
        ConfigError: a flag lacks its value.
    """
    line = CommandLine()
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in _ACTIONS:
            line.action = _ACTIONS[name]
        if name in _FOLDER:
            line.config_dirs.append(value if equals else _value(name, words))
        elif name in _WITH_VALUE:
            line.flags += [name, value if equals else _value(name, words)]
        elif name in ("--info", "-i"):
            chosen = value if equals else (words.pop(0) if words and words[0] in _INFO else "all")
            line.flags += ["--info", chosen]
        elif word.startswith("-"):
            line.flags.append(word)
            line.multirun = line.multirun or word in ("-m", "--multirun")
        else:
            line.overrides.append(word)
    line.typed = (tuple(line.flags), tuple(line.overrides))
    return line


def _value(name: str, words: list[str]) -> str:
    if not words:
        raise ConfigError(name, "", "expected a value after it", where="command line")
    return words.pop(0)
