"""What a job is handed beside the configuration: its directory, its state and how it was started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainlab.errors import ConfigError
from brainlab.run.directory import RunDirectory, read_json
from brainlab.run.fingerprint import Fingerprint, of_config
from brainlab.run.status import Status
from brainlab.run.weights import fingerprint_weights, weights_of

__all__ = ["Run"]


@dataclass
class Run:
    """One attempt at one run."""

    directory: RunDirectory
    status: Status
    plain: dict[str, Any]
    """The resolved configuration, as ``resolved.yaml`` holds it."""
    overrides: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """The content of ``env.json``."""
    was_completed: bool = False
    """Whether an earlier attempt completed, so that only growth keys or moved data can be a reason to go on."""
    on_finish: list[Callable[[str], None]] = field(default_factory=list)
    """Called with the final state, whatever it is."""

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def attempt(self) -> int:
        return self.status.attempt

    @property
    def weights(self) -> dict[str, str]:
        """Files that training starts from, by part of the model."""
        return weights_of(self.plain)

    def settle_fingerprint(self, data: Any = None) -> Fingerprint:
        """Write ``fingerprint.txt`` once the data's content is known, or check it against an earlier attempt's.

        Raises:
            ConfigError: the data are not those that the run was started with.
        """
        config = of_config(self.plain)
        content = getattr(data, "fingerprint", None)
        weights = fingerprint_weights(self.weights)
        if weights is not None:
            content = f"{content}+{weights}"
        found = Fingerprint(config.config, config.growth, getattr(data, "source", None), content)
        stored = Fingerprint.stored(self.directory.fingerprint)
        if (
            stored.get("data")
            and found.data
            and (stored["data"], stored["data_source"])
            != (
                found.data,
                found.data_source,
            )
        ):
            raise ConfigError(
                "data",
                f"{found.data_source} {found.data}",
                f"expected the data that this run was started with ({stored['data_source']} {stored['data']})",
                where=str(self.path),
                hint="choose another hydra.run.dir for other data",
            )
        self.directory.write("fingerprint.txt", found.text())
        return found

    def parent_run_id(self) -> str | None:
        """The tracker's run of the sweep that this run belongs to."""
        sweep = read_json(self.path.parent / "sweep.json")
        return sweep.get("mlflow_run_id") if isinstance(sweep, Mapping) else None
