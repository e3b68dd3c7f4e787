"""What the simulated MEG archives have in common: who is in them, and the order in which a tree is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from brainlab.io.cache import code_digest
from brainlab.synthetic.meg_side_files import describe_dataset, describe_recording
from brainlab.synthetic.meg_tree import Quirk, Scanner, SessionPlan, TreeSize, check_size, write_tree

__all__ = ["SimulatedArchive"]

_SHORT_S = 12.0
_FILES = ("meg_archive", "meg_sensors", "meg_side_files", "meg_sources", "meg_tree")


@dataclass(frozen=True)
class SimulatedArchive(ABC):
    """An archive's tree with simulated people in it; an archive says what its scanner is and what its people do.

    Args:
        seed: same seed, same files.
    """

    seed: int = 0

    name: ClassVar[str]
    title: ClassVar[str]
    sizes: ClassVar[dict[str, TreeSize]]
    empty_room: ClassVar[SessionPlan]
    tree: ClassVar[str] = ""  # where the subjects are, below the root
    reads: ClassVar[tuple[str, ...]] = ()  # further source files that the files depend on

    def write(self, folder: Path | str, size: Literal["tiny", "default"] = "default") -> list[Path]:
        """Write the tree: usable sessions, then one with too many bad channels, a too short one, an empty room.

        Returns:
            the recordings' paths.

        Raises:
            InvalidValue: if ``size`` is unknown.
        """
        plan, root = check_size(size, self.sizes), Path(folder)
        scanner, n = self._scanner(plan.n_sensors), plan.n_subjects
        sessions = [self._session(number, "", plan.duration_s) for number in range(1, n + 1)]
        sessions += [self._session(n + 1, "bads", plan.duration_s), self._session(n + 2, "short", _SHORT_S)]
        sessions.append(self.empty_room)
        paths, tree = write_tree(root, scanner, sessions, self.seed), root / self.tree
        describe_dataset(tree, self.title, sorted({path.relative_to(tree).parts[0] for path in paths}))
        for path, session in zip(paths, sessions, strict=True):
            rows = self._events_table(session)
            describe_recording(path, scanner.array, scanner.stim, scanner.sfreq_hz, scanner.line_hz, rows)
        return paths

    def recipe(self) -> dict[str, Any]:
        """What the files depend on, JSON-ready."""
        code = code_digest(*(f"synthetic/{name}.py" for name in (self.name, *_FILES)), *self.reads)
        return {"simulator": self.name, "seed": self.seed, "code": code}

    @abstractmethod
    def _scanner(self, n_sensors: int) -> Scanner:
        """The machine, with so many of its sensors."""

    @abstractmethod
    def _session(self, number: int, quirk: Quirk, duration_s: float) -> SessionPlan:
        """What a person does, and for how long."""

    def _events_table(self, session: SessionPlan) -> list[list[str]]:
        """Rows of ``_events.tsv``; without any there is no such file."""
        return []
