"""The frame around every job: claim the directory, write down what runs, watch it, and say how it ended."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from brainlab.config.build import build
from brainlab.config.resolved import resolved_yaml
from brainlab.errors import ConfigError
from brainlab.run.context import Run
from brainlab.run.directory import RunDirectory, is_rank_zero, read_json, write_json
from brainlab.run.ending import terminable
from brainlab.run.environment import environment
from brainlab.run.fingerprint import GROWTH_KEYS, compare, flatten, plain_config
from brainlab.run.logs import messages_to, quiet_libraries
from brainlab.run.stages import register_resolver
from brainlab.run.status import Status, now

__all__ = ["execute"]

log = logging.getLogger(__name__)

_PLACES = ("paths", "data")


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
    earlier = _check_earlier(cfg, directory, plain)
    if earlier is not None and _is_done(directory, earlier, plain):
        results = read_json(directory.results)
        log.info(
            "%s is completed already; nothing is run again (resume=never in a new folder repeats it)", directory.path
        )
        return (results.get("best") or {}).get("score")
    job = build(cfg.job, path="job")
    if hasattr(job, "check"):
        job.check(cfg)
    directory.path.mkdir(parents=True, exist_ok=True)
    with _alone(directory), messages_to(directory), terminable():
        return _attempt(cfg, job, directory, plain, overrides, earlier)


def _attempt(
    cfg: DictConfig,
    job: Any,
    directory: RunDirectory,
    plain: dict[str, Any],
    overrides: list[str] | None,
    earlier: dict[str, Any] | None,
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
    state, code, message = "FAILED", 1, None
    try:
        run.facts = _write_down(cfg, run)
        score = job(cfg, run)
        state, code = "COMPLETED", 0
        return score
    except KeyboardInterrupt:
        state, code, message = "CANCELLED", 130, "interrupted"
        log.info("interrupted; continue with: brainlab resume=%s", directory.path)
        raise
    except ConfigError as error:
        # Refused, not failed: what an earlier attempt completed stays completed.
        state, code, message = ("COMPLETED" if run.was_completed else "FAILED"), 2, str(error)
        _keep_traceback(directory)
        raise
    except BaseException as error:
        # A scheduler ends a run with SystemExit subclasses of its own: they count as failures here and travel on.
        message = f"{type(error).__name__}: {error}"
        _keep_traceback(directory)
        if not getattr(error, "brainlab_reported", False):  # a stage of a chain has said it already
            _report_failure(directory, error)
        error.brainlab_reported = True  # type: ignore[attr-defined]
        raise
    finally:
        for finish in reversed(run.on_finish):
            try:
                finish(state)
            except Exception:
                log.warning("Closing the run failed", exc_info=True)
        status.finish(state, code, message)  # type: ignore[arg-type]


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
    if not directory.used() or not is_rank_zero():  # the first process of a distributed run decides for all
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
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if not directory.resolved.exists():
        directory.write("cmd.txt", command + "\n")
    facts = environment(directory)
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

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _keep_traceback(directory: RunDirectory) -> None:
    if is_rank_zero():
        with open(directory.stderr, "a", encoding="utf-8") as stream:
            stream.write(f"{now()}\n{traceback.format_exc()}\n")


def _report_failure(directory: RunDirectory, error: BaseException) -> None:
    reason = str(error).strip() or type(error).__name__
    kind = "" if reason.startswith("Invalid ") else f"{type(error).__name__}: "
    log.error("run failed: %s%s\n  full traceback: %s", kind, reason, directory.stderr)
