"""Adds brainlab's and the user's configuration folders to Hydra's search path."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class BrainlabSearchPath(SearchPathPlugin):
    """Runs after Hydra's plugin scan, so what it stores in the ConfigStore is what counts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "brainlab.config.search_path" not in sys.modules:
            return  # another Hydra program in the same environment
        from brainlab.config import schema
        from brainlab.config.search_path import current, launchers_dir
        from hydra_plugins.brainlab_slurm import queue

        schema.register()
        queue.store()
        for folder in reversed(current().folders):
            search_path.prepend("user", f"file://{folder}")
        search_path.append("brainlab-launchers", f"file://{launchers_dir()}")
