"""Where a run's messages go, and which messages of libraries are worth a line."""

from __future__ import annotations

import faulthandler
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from brainlab.run.directory import RunDirectory, is_rank_zero

__all__ = ["Console", "messages_to", "quiet_libraries"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_CHATTY = (
    *("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning", "torchmetrics"),
    *("mlflow", "alembic", "urllib3", "httpx", "git", "fsspec", "filelock"),
    *("matplotlib", "PIL", "fontTools", "absl", "numba"),
)

# Advice that is wrong here (our loaders and loggers decide these things) or of no use to the person at the terminal.
_USELESS_WARNINGS = (
    r".*does not have many workers.*",
    r"(?s).*Grad strides do not match bucket view strides.*",
    r".*`srun` command is available on your system but is not used.*",
    r".*smaller than the logging interval.*",
    r".*sampler has shuffling enabled.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*module\(s\) in eval mode at the start of training.*",
    r".*GPU available but not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*treespec.*LeafSpec.*",
    r".*`weights_only`.*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",
    r".*Trying to infer the `batch_size`.*",
    r".*was called before the ``update`` method.*",
    r".*Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
    r".*litlogger.*",
    r".*torchaudio.*",
    r".*when logging on epoch level in distributed setting.*",  # what every process computes from everyone's rows
)


def quiet_libraries() -> None:
    """Keep libraries' information and useless warnings off the terminal; errors and real warnings stay."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _USELESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING)


class Console(logging.StreamHandler[TextIO]):
    """Shows messages on stdout and errors on stderr, so that what is redirected loses neither.

    Args:
        stream: takes the messages instead of stdout.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._messages = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to the stream that is its own."""
        # Looked up each time: both may have been redirected since.
        self.stream = sys.stderr if record.levelno >= logging.ERROR else self._messages or sys.stdout
        super().emit(record)


@contextmanager
def messages_to(run: RunDirectory) -> Iterator[None]:
    """Append log records to the run's ``brainlab.log`` and fatal crashes to its ``stderr.txt``.

    Of the processes of a distributed run the first speaks for all; the others only warn.
    """
    root = logging.getLogger()
    added: list[logging.Handler] = []
    if not any(_is_shown(handler) for handler in root.handlers):
        console = Console()
        console.setFormatter(logging.Formatter("%(message)s"))
        added.append(console)
    files = [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
    own = [] if is_rank_zero() else [handler for handler in files if handler.baseFilename == str(run.log)]
    for elsewhere in own:
        root.removeHandler(elsewhere)
    if is_rank_zero() and not any(handler.baseFilename == str(run.log) for handler in files):
        file = logging.FileHandler(run.log, encoding="utf-8")
        file.setFormatter(logging.Formatter(_FORMAT))
        added.append(file)
    level = root.level
    root.setLevel(min(level or logging.INFO, logging.INFO) if is_rank_zero() else logging.WARNING)
    for handler in added:
        root.addHandler(handler)
    crash = open(run.stderr, "a", encoding="utf-8") if is_rank_zero() else None  # noqa: SIM115 - closed below
    was_enabled = faulthandler.is_enabled()
    if crash is not None:
        faulthandler.enable(crash)
    try:
        yield
    finally:
        if crash is not None:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:
                faulthandler.enable()
            crash.close()
        for elsewhere in own:
            root.addHandler(elsewhere)
        for handler in added:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


def _is_shown(handler: logging.Handler) -> bool:
    """Whether someone at the terminal sees what the handler takes."""
    if isinstance(handler, logging.FileHandler) or not isinstance(handler, logging.StreamHandler):
        return False
    return isinstance(handler, Console) or handler.stream is sys.stdout
