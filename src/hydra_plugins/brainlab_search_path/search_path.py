"""Adds brainlab's and the user's configuration folders to Hydra's search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class BrainlabSearchPath(SearchPathPlugin):
    """Runs after Hydra's plugin scan, so what it stores in the ConfigStore is what counts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from brainlab.config import schema
        from brainlab.config.search_path import launchers_dir

        schema.register()
        search_path.append("brainlab-launchers", f"file://{launchers_dir()}")
