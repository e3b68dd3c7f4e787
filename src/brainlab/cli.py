"""The one entry: compose, validate, run.

Exit codes: 0 all ok; 1 a run failed; 2 configuration or usage error, nothing started; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from brainlab import __version__
from brainlab.config import schema, search_path
from brainlab.config.command_line import parse
from brainlab.errors import BrainlabError, ConfigError

__all__ = ["as_typed", "entry", "main"]

schema.register()
_started: list[Path] = []  # the folders of the runs that this process began
_failed: list[Exception] = []  # why the single run of this process failed
_typed: list[str] = []  # the command line as the user wrote it
_usual_collections = gc.get_threshold()


@hydra.main(version_base="1.3", config_path=str(search_path.conf_dir()), config_name="config")
def entry(cfg: DictConfig) -> Any:
    """What Hydra calls once per job; tiny, so that it pickles."""
    _started.append(Path(HydraConfig.get().runtime.output_dir))
    gc.set_threshold(*_usual_collections)
    as_typed()
    from brainlab.run import run
    from brainlab.run.directory import is_rank_zero

    if is_rank_zero():  # before the long imports
        logging.getLogger("brainlab").info("brainlab %s: %s", __version__, cfg.experiment_name)

    swept = "MULTIRUN" in str(HydraConfig.get().mode)
    try:
        return run(cfg)
    except ConfigError as error:
        if swept:
            raise BrainlabError(str(error)) from error  # one job that cannot start does not stop its siblings
        raise
    except Exception as error:
        if swept:
            raise
        _failed.append(error)  # Hydra would print a sentence of its own behind ours
        return None


def as_typed() -> None:
    """Give ``sys.argv`` back the user's words: Hydra has read its own; records and child processes want these."""
    sys.argv[:] = _typed or sys.argv


def main() -> None:
    """Run the command line and exit."""
    gc.set_threshold(50_000, 20, 100)  # composing makes many objects and little garbage: a fifth less time
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits 1 by itself
    debug = os.environ.get("BRAINLAB_DEBUG") == "1"
    if not debug:
        warnings.filterwarnings("ignore", module="hydra")
    _started.clear()
    _failed.clear()
    _typed[:] = sys.argv
    try:
        code = _run(sys.argv[1:])
    except ConfigError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        code = 2
    except KeyboardInterrupt:
        _say("Interrupted.")
        code = 130
    except Exception as error:
        code = _failure(error, debug)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    line = parse(arguments)
    if line.action == "version":
        print(f"brainlab {__version__} (Hydra {hydra.__version__})")
        return 0
    if line.action == "completion":
        # The shell hands over the unfinished command, whose folders count as well.
        line.config_dirs += parse(os.environ.get("COMP_LINE", "").split()[1:]).config_dirs
    try:
        cwd = Path.cwd()
    except FileNotFoundError:
        raise ConfigError("cwd", os.environ.get("PWD"), "expected a folder that exists") from None
    found = search_path.find(line.config_dirs, os.environ, cwd)
    search_path.use(found)
    if line.action != "completion":
        from brainlab.config.preflight import preflight

        for text in (*found.warnings, *found.announcements()):
            _say(text)
        if not preflight(line, _script):
            return 0
    sys.argv = [_program(), *line.argv()]
    try:
        entry()
    except Exception as error:
        follow = sys.modules.get("brainlab.run.sweep.follow")
        told = follow.broken_off(error) if follow is not None else None
        if told is not None:
            raise told from error
        if _started or isinstance(error, BrainlabError) or line.action == "completion":
            raise
        from brainlab.config.preflight import explained

        raise explained(line, error) from error
    if _failed:
        raise _failed.pop()
    return 0


def _script(cfg: DictConfig, n_jobs: int) -> str | None:
    from brainlab.run.sweep.runners import script_for

    return script_for(cfg, n_jobs)


def _program() -> str:
    # Completion is registered for this name; ``python -m brainlab`` would register it for a file.
    return sys.argv[0] if Path(sys.argv[0]).name == "brainlab" else "brainlab"


def _failure(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if getattr(error, "brainlab_reported", False):
        return 1
    _say(str(error) if isinstance(error, BrainlabError) else f"{type(error).__name__}: {error}")
    if not _started:
        return 1 if isinstance(error, BrainlabError) else 2
    if type(error).__name__ in ("JobsFailed", "BrokenOff"):
        return 1  # every job wrote its own
    file = _started[-1] / "stderr.txt"
    if not file.exists() and _started[-1].is_dir():
        with contextlib.suppress(OSError):  # the disk may be what is wrong
            file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if file.exists():
        _say(f"Full traceback: {file}")
    return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
