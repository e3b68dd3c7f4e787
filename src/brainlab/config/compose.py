"""Composes configurations the way Hydra will, before Hydra does, and knows the groups and their options."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from brainlab.config import locate
from brainlab.config.search_path import conf_dir

__all__ = ["Composer"]

CONFIG_NAME = "config"


class Composer:
    """One search path, many compositions."""

    def __init__(self, config_name: str | None = None, loader: Any = None, config_path: str | None = None) -> None:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        setup_globals()
        self.elsewhere = "configuration"  # where values come from that no searched file holds
        self.config_name = config_name or CONFIG_NAME
        self.loader = loader or ConfigLoaderImpl(create_config_search_path(config_path or str(conf_dir())))

    def parse(self, overrides: list[str]) -> list[Override]:
        """Hydra's reading of ``key=value`` words."""
        return OverridesParser.create(config_loader=self.loader).parse_overrides(overrides)

    def compose(self, overrides: list[str], *, multirun: bool = False) -> DictConfig:
        """The configuration with its ``hydra`` node, as a run (or the frame of a sweep) would see it."""
        cfg = self.loader.load_configuration(
            self.config_name, list(overrides), RunMode.MULTIRUN if multirun else RunMode.RUN
        )
        with open_dict(cfg.hydra):
            cfg.hydra.mode = cfg.hydra.mode or (RunMode.MULTIRUN if multirun else RunMode.RUN)
        return cfg

    def origins(self, overrides: list[str], *, multirun: bool = False) -> locate.Origins:
        """The files behind ``compose(overrides)``."""

        def find() -> list[tuple[Path, str]]:
            mode = RunMode.MULTIRUN if multirun else RunMode.RUN
            defaults = self.loader.compute_defaults_list(self.config_name, list(overrides), mode).defaults
            return locate.files_of(defaults, self.folders)

        keys = [override.key_or_group for override in self.parse(list(overrides))]
        return locate.Origins(find, [key for key in keys if key not in self.groups], elsewhere=self.elsewhere)

    def tree(self, choices: list[str], *, multirun: bool = False) -> tuple[DictConfig, locate.Origins]:
        """What group choices alone come to, with the files behind it, from one reading of them.

        It is what messages about values are made of: which keys there are, and where.
        """
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        parsed, repository = self.loader._parse_overrides_and_create_caching_repo(self.config_name, list(choices))
        defaults = create_defaults_list(repository, self.config_name, parsed, True, multirun).defaults
        cfg = self.loader._compose_config_from_defaults_list(defaults, repository)
        OmegaConf.set_struct(cfg, True)
        with open_dict(cfg):
            cfg.hydra.mode = mode
        return cfg, locate.Origins(lambda: locate.files_of(defaults, self.folders))

    @property
    def folders(self) -> list[Path]:
        """The folders on disk that are searched, in order."""
        return [Path(source.path) for source in self.loader.get_sources() if source.scheme() == "file"]

    @cached_property
    def groups(self) -> list[str]:
        """Every group, also nested ones such as ``hydra/launcher``."""
        found: list[str] = []
        waiting = [""]
        while waiting:
            parent = waiting.pop()
            for name in self.loader.repository.get_group_options(parent, ObjectType.GROUP):
                group = f"{parent}/{name}" if parent else name
                found.append(group)
                waiting.append(group)
        return sorted(found)

    def options(self, group: str) -> list[str]:
        """The names that ``group=`` takes."""
        return sorted(set(self.loader.repository.get_group_options(group, ObjectType.CONFIG)))


def publish(cfg: DictConfig) -> None:
    """Let ``${hydra:…}`` see ``cfg``."""
    HydraConfig.instance().set_config(cfg)


def forget() -> None:
    """Undo ``publish``, so that the real start finds Hydra as it was."""
    HydraConfig.instance().cfg = None
    GlobalHydra.instance().clear()
