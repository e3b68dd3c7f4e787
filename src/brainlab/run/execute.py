"""The frame around every job: claim the directory, write down what runs, watch it, and say how it ended."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from brainlab.config.build import build
from brainlab.config.resolved import overrides_of, resolved_yaml
from brainlab.errors import BrainlabError, ConfigError
from brainlab.run.context import Run
from brainlab.run.directory import RunDirectory, is_rank_zero, read_json, without_room, write_json
from brainlab.run.ending import GRACE_S, Ending, Preempted, told_to_end
from brainlab.run.environment import environment
from brainlab.run.fingerprint import GROWTH_KEYS, compare, flatten, plain_config
from brainlab.run.logs import messages_to, quiet_libraries
from brainlab.run.stages import register_resolver
from brainlab.run.status import Status, launch_id, now
from brainlab.run.sweep.code import warn_if_code_changed

__all__ = ["execute"]

log = logging.getLogger(__name__)

_PLACES = ("paths", "data")
_FIRST_S = 600.0  # nodes of one job may start minutes apart


def execute(cfg: DictConfig, *, folder: Path | None = None, overrides: list[str] | None = None) -> float | None:
    """Run ``cfg.job`` in its run directory.

    Args:
        cfg: composed and validated configuration.
        folder: the run directory; by default Hydra's output directory, or the one that ``resume`` names.
        overrides: the overrides that ``cfg`` was composed from; by default Hydra's.

    Returns:
        the best score of ``cfg.monitor``, where the job has one.

    Raises:
        ConfigError: the directory belongs to another configuration, or is in use.
        Exception: whatever the job raised; it carries ``brainlab_reported = True`` because its message was shown.
    """
    # Threads that spin at a barrier slow training twentyfold where others use the same cores; read at torch's import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_libraries()
    register_resolver()
    directory = RunDirectory(folder or _folder(cfg))
    plain = plain_config(cfg)
    earlier = _check_earlier(cfg, directory, plain) if is_rank_zero() else None
    done = earlier is not None and _is_done(directory, earlier, plain)
    if done or (not is_rank_zero() and _first_is_done(cfg, directory, plain)):
        results = read_json(directory.results)
        if is_rank_zero():
            log.info(
                "%s is completed already; nothing is run again (resume=never in a new folder repeats it)",
                directory.path,
            )
        return results.get("score", (results.get("best") or {}).get("score"))
    job = build(cfg.job, path="job")
    if hasattr(job, "check"):
        job.check(cfg)
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
        with _alone(directory), messages_to(directory), told_to_end(_grace_s()) as ending:
            return _attempt(cfg, job, directory, plain, overrides, earlier, ending)
    except OSError as error:
        told = error if getattr(error, "brainlab_reported", False) else without_room(error, directory)
        if told is error:
            raise
        raise told from error  # the attempt could not be opened


def _attempt(
    cfg: DictConfig,
    job: Any,
    directory: RunDirectory,
    plain: dict[str, Any],
    overrides: list[str] | None,
    earlier: dict[str, Any] | None,
    ending: Ending,
) -> float | None:
    status = Status(directory)
    run = Run(
        directory=directory,
        status=status,
        plain=plain,
        overrides=list(overrides) if overrides is not None else _hydra_overrides(),
        was_completed=earlier is not None and status.state == "COMPLETED",
    )
    status.start()
    log.info("run directory: %s", directory.path)

    def close(state: str, error: str | None, code: int | None = None) -> None:
        with ending.shielded():
            for finish in reversed(run.on_finish):
                try:
                    finish(state)
                except Exception as problem:
                    told = without_room(problem, directory)
                    log.warning("Closing the run failed: %s", told, exc_info=told is problem)
            try:
                status.finish(state, code if state != "FAILED" else code or 1, error)  # type: ignore[arg-type]
            except OSError as problem:
                if state != "FAILED":
                    raise
                log.warning("%s does not say that the run failed: %s", directory.status, problem)

    try:
        with ending.closing(close):
            run.facts = _write_down(cfg, run)
            score = job(cfg, run)
        close("COMPLETED", None, 0)
        return score
    except KeyboardInterrupt:
        log.info("interrupted; continue with: brainlab resume=%s", directory.path)
        close("CANCELLED", "interrupted", 130)
        raise
    except ConfigError as error:
        # Refused, not failed: what an earlier attempt completed stays completed.
        _keep_traceback(directory)
        close("COMPLETED" if run.was_completed else "FAILED", str(error), 2)
        raise
    except Preempted:
        log.info("preempted; this run goes on here: %s", directory.path)
        close("PREEMPTED", None)
        try:
            ending.hand_over()
        except Exception as error:  # it may not go on: the launcher counts how often it was put back
            _failed(directory, error)
            close("FAILED", f"{type(error).__name__}: {error}")
            raise
        raise
    except BaseException as error:
        # Libraries leave with SystemExit subclasses of their own: they count as failures here and travel on.
        told = without_room(error, directory)
        _failed(directory, told)
        close("FAILED", f"{type(told).__name__}: {told}")
        if told is not error:
            raise told from error
        raise


def _failed(directory: RunDirectory, error: BaseException) -> None:
    if getattr(error, "without_traceback", False):  # what failed are other runs, and each wrote its own
        log.error("%s", error)
        error.brainlab_reported = True  # type: ignore[attr-defined]
        return
    _keep_traceback(directory)
    if not getattr(error, "brainlab_reported", False):  # a stage of a chain has said it already
        _report_failure(directory, error)
    error.brainlab_reported = True  # type: ignore[attr-defined]


def _grace_s() -> float:
    """How long training may look for a place to save: what the launcher warns ahead, less what leaving takes."""
    from hydra.core.hydra_config import HydraConfig

    delay = HydraConfig.get().launcher.get("signal_delay_s") if HydraConfig.initialized() else None
    return GRACE_S if not delay else max(float(delay) - 30.0, float(delay) / 2)


def _folder(cfg: DictConfig) -> Path:
    resume = str(cfg.get("resume", "auto"))
    if resume not in ("auto", "never"):
        path = Path(resume).expanduser().absolute()
        if not RunDirectory(path).used():
            raise ConfigError(
                "resume",
                resume,
                "expected auto, never or a run directory",
                where="command line",
                hint="a run directory holds resolved.yaml and status.json",
            )
        return path
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def _check_earlier(cfg: DictConfig, directory: RunDirectory, plain: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of an earlier attempt in this directory, once it is known to fit."""
    if not directory.used():
        return None
    if str(cfg.get("resume", "auto")) == "never":
        raise ConfigError(
            "resume",
            "never",
            f"expected an empty run directory, but {directory.path} holds a run",
            hint="resume=auto continues it; another hydra.run.dir starts a new one",
        )
    if not directory.resolved.exists():
        return None  # killed before anything was written down
    earlier = OmegaConf.to_container(OmegaConf.load(directory.resolved))
    assert isinstance(earlier, dict)
    compare(earlier, plain, directory.path)  # type: ignore[arg-type]
    return earlier  # type: ignore[return-value]


def _is_done(directory: RunDirectory, earlier: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Whether there is nothing left to do, as far as the configuration can tell."""
    status, results = read_json(directory.status), read_json(directory.results)
    if not isinstance(status, dict) or status.get("state") != "COMPLETED" or not isinstance(results, dict):
        return False
    before, after = flatten(earlier), flatten(plain)
    grown = any(before.get(key) != after.get(key) for key in GROWTH_KEYS)
    moved = any(before.get(key) != after.get(key) for key in {*before, *after} if key.split(".")[0] in _PLACES)
    return not grown and not moved


def _first_is_done(cfg: DictConfig, directory: RunDirectory, plain: dict[str, Any]) -> bool:
    """Whether the first of the processes that ``srun`` started beside this one found nothing left to do.

    Returns once it has opened its attempt, or once it is clear that it refused the directory, which this process then
    does as well: nobody is left waiting for another to join.
    """
    if launch_id() is None:
        return False  # Lightning starts the others itself, when the first one is about to train
    deadline = time.monotonic() + _FIRST_S
    while True:
        refused: ConfigError | None = None
        earlier = None
        # In this order: the first process opens its attempt before it writes anything that a check would look at.
        try:
            earlier = _check_earlier(cfg, directory, plain)
        except ConfigError as error:
            refused = error
        status = read_json(directory.status)
        attempts = status.get("attempts") if isinstance(status, dict) else None
        if attempts and attempts[-1].get("launch") == launch_id():
            if status["state"] == "RUNNING":
                return False
            raise BrainlabError(f"The first process of this run has ended already: {status.get('error')}")
        if refused is not None:
            raise refused
        if earlier is not None and _is_done(directory, earlier, plain):
            return True
        if time.monotonic() > deadline:
            raise BrainlabError(f"The first process of this run did not start in {_FIRST_S:.0f} s: {directory.path}")
        time.sleep(0.2)


class _alone:
    """Holds the directory while this process works in it; the lock dies with the process."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.path
        self._lock = FileLock(directory.path / ".lock")

    def __enter__(self) -> None:
        if not is_rank_zero():
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                "hydra.run.dir",
                self._path,
                "expected a directory that no other process is working in",
                hint="wait for it to end, or choose another directory",
            ) from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _write_down(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """Everything that is needed to repeat this run; returns the content of ``env.json``."""
    directory = run.directory
    program = Path(sys.argv[0]).name
    # With ``python -m`` it is a file of the package, which does not run by that name.
    command = shlex.join(["brainlab" if program == "__main__.py" else program, *sys.argv[1:]])
    if not directory.resolved.exists():
        directory.write("cmd.txt", command + "\n")
    facts = environment(directory)
    if is_rank_zero():
        warn_if_code_changed(directory.path, facts["code"])
    if cfg.get("rerun"):
        facts["rerun_of"] = str(Path(str(cfg.rerun)).absolute())
        _warn_if_changed(Path(str(cfg.rerun)), facts)
    directory.write("resolved.yaml", resolved_yaml(cfg))
    if not (directory.path / ".hydra" / "config.yaml").exists():
        directory.write(".hydra/config.yaml", OmegaConf.to_yaml(cfg))
        directory.write(".hydra/overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(run.overrides)))
    write_json(directory.environment, facts)
    attempt = {
        "attempt": run.attempt,
        "start": now(),
        "command": command,
        "cwd": str(Path.cwd()),
        "overrides": run.overrides,
        "git_sha": facts["code"]["git_sha"],
        "git_dirty": facts["code"]["git_dirty"],
        "host": facts["machine"]["host"],
        "growth": {key: value for key, value in flatten(run.plain).items() if key in GROWTH_KEYS},
    }
    directory.write(f"attempts/{run.attempt}.yaml", OmegaConf.to_yaml(OmegaConf.create(attempt)))
    return facts


def _warn_if_changed(source: Path, facts: dict[str, Any]) -> None:
    before = read_json(source / "env.json")
    if not isinstance(before, dict):
        return
    if before.get("code", {}).get("git_sha") != facts["code"]["git_sha"]:
        log.warning(
            "The code differs from that of %s: %s then, %s now",
            source,
            before.get("code", {}).get("git_sha"),
            facts["code"]["git_sha"],
        )
    old, new = before.get("versions", {}), facts["versions"]
    changed = [
        f"{name} {old.get(name)} → {new.get(name)}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]
    if changed:
        log.warning("Package versions differ from those of %s: %s", source, ", ".join(changed))


def _hydra_overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    config = HydraConfig.instance().cfg
    return [] if config is None else overrides_of(config)


def _keep_traceback(directory: RunDirectory) -> None:
    if is_rank_zero():
        with (
            suppress(OSError),
            open(directory.stderr, "a", encoding="utf-8") as stream,
        ):  # the disk may be what is wrong
            stream.write(f"{now()}\n{traceback.format_exc()}\n")


def _report_failure(directory: RunDirectory, error: BaseException) -> None:
    reason = str(error).strip() or type(error).__name__
    kind = "" if reason.startswith("Invalid ") else f"{type(error).__name__}: "
    log.error("run failed: %s%s\n  full traceback: %s", kind, reason, directory.stderr)
