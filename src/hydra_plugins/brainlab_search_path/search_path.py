"""Adds brainlab's and the user's configuration folders to Hydra's search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class BrainlabSearchPath(SearchPathPlugin):
    """Runs after Hydra's plugin scan, so what it stores in the ConfigStore is what counts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from brainlab.config import schema
        from brainlab.config.search_path import current, launchers_dir

        schema.register()
        ours = current()
        for folder in reversed(ours.folders):
            search_path.prepend("user", f"file://{folder}")
        if ours.previous is not None:
            search_path.prepend("previous-run", f"brainlab-run://{ours.previous}")
        search_path.append("brainlab-launchers", f"file://{launchers_dir()}")
