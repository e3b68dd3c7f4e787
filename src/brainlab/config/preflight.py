"""Everything that is judged before Hydra starts: words, files, configuration, launcher."""

from __future__ import annotations

import shutil
import string
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from brainlab.config import compose as composing
from brainlab.config.command_line import CommandLine
from brainlab.config.compose import Composer
from brainlab.config.explain import explain, is_composition_error
from brainlab.config.overrides import check_overrides, read_overrides
from brainlab.config.previous import PREVIOUS, find_previous, take_experiment
from brainlab.config.resolved import overrides_of
from brainlab.config.schema import ALLOWED_TARGETS
from brainlab.config.search_space import (
    Space,
    check_settings,
    is_search,
    read_space,
    refuse_fractions,
    refuse_intervals,
)
from brainlab.config.targets import admitted, allowed_targets
from brainlab.config.validate import all_targets, validate, validate_hydra
from brainlab.errors import ConfigError

__all__ = ["combinations", "explained", "handed_over", "judged", "preflight", "space_of"]

_MANY = 50  # jobs whose checking takes long enough to wonder

_checked: dict[tuple[str, ...], DictConfig] = {}  # the jobs of the sweep that is about to start, by their overrides


def preflight(line: CommandLine, script: Callable[[DictConfig, int], str | None] | None = None) -> bool:
    """Check the command line and the configuration it makes.

    Args:
        line: what was typed.
        script: what a cluster would be given for so many jobs; ``dry=true`` shows it.

    Returns:
        whether Hydra should go on; False for ``validate`` and ``dry``, which end here.

    Raises:
        ConfigError: nothing may start.
    """
    composer = Composer(_flag(line, "--config-name", "-cn"), config_path=_flag(line, "--config-path", "-cp"))
    if line.action == "help" and "--hydra-help" not in line.flags:
        print(help_text(composer))
        return False
    words = read_overrides(line, composer)
    previous = find_previous(line, words)
    if previous is not None:
        composer = Composer(PREVIOUS)
        composer.elsewhere = str(previous.folder / "resolved.yaml")
    else:
        take_experiment(line, words, lambda: composer.options("experiment"))
    overrides = check_overrides(line, composer)
    if line.action in ("cfg", "info"):
        return True  # Hydra builds nothing for these; what is wrong shows when it composes
    multirun = line.multirun
    cfg = composed(composer, overrides, multirun=multirun)
    if "MULTIRUN" in str(cfg.hydra.mode) and line.action == "run" and not multirun:
        multirun = True
        cfg = composed(composer, overrides, multirun=True)
    try:
        origins = composer.origins([o.input_line or "" for o in overrides], multirun=multirun)
        validate_hydra(cfg, origins)
        if line.action == "help":
            return True
        _launcher_needs_multirun(line, cfg, multirun)
        if not multirun:
            validate(cfg, origins)
            _job_agrees(cfg)
            jobs = [cfg]
        elif (
            cfg.validate
            or cfg.dry
            or str(cfg.hydra.sweeper.get("_target_")).endswith((".BrainlabSweeper", ".BasicSweeper"))
        ):
            _waits_for_results(cfg)
            all_words = combinations(composer, cfg)
            if len(all_words) > _MANY:
                print(f"checking {len(all_words)} jobs …", file=sys.stderr, flush=True)
            jobs = [_check_combination(composer, cfg, words) for words in all_words]
            if not (cfg.validate or cfg.dry):
                _check_cluster(cfg)
                _checked.update({tuple(words): job for words, job in zip(all_words, jobs, strict=True)})
        else:
            _waits_for_results(cfg)
            _check_cluster(cfg)
            return True  # nobody knows yet which combinations another sweeper will try
        _announce_targets(composer, jobs)
        if not (cfg.validate or cfg.dry):
            return True
        _report(composer, cfg, jobs, script)
        return False
    finally:
        composing.forget()


def help_text(composer: Composer) -> str:
    """Hydra's help template, filled in from what is on the search path; it works however broken an experiment is."""
    cfg, _ = composer.tree(["experiment=none"], multirun=True)
    options = {group: composer.options(group) for group in composer.groups if not group.startswith("hydra")}
    listed = "\n".join(f"  {group}: {', '.join(names)}" for group, names in options.items() if names)
    return string.Template(cfg.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=listed)


def explained(line: CommandLine, error: Exception) -> ConfigError:
    """The sentence for an error that Hydra met after ``preflight`` let it pass."""
    if not is_composition_error(error):
        return ConfigError("command", line.pasteable(multirun=line.multirun), f"cannot start: {error}")
    composer = Composer(_flag(line, "--config-name", "-cn"), config_path=_flag(line, "--config-path", "-cp"))
    return explain(error, composer.parse(line.overrides), composer, multirun=line.multirun)


def composed(composer: Composer, overrides: Sequence[Override], *, multirun: bool = False) -> DictConfig:
    """Compose, with ``${hydra:…}`` readable and errors in our words."""
    try:
        cfg = composer.compose([o.input_line or "" for o in overrides], multirun=multirun)
    except Exception as error:
        raise explain(error, list(overrides), composer, multirun=multirun) from None
    _name_output_dir(cfg)
    return cfg


def combinations(composer: Composer, cfg: DictConfig, arguments: Sequence[str] | None = None) -> list[list[str]]:
    """The overrides of every job of a sweep, in order; of a search, those of trials at the ends of its space."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    check_settings(cfg)
    if is_search(cfg):
        return space_of(composer, cfg, arguments).probes()
    overrides = _swept(composer, cfg, arguments)
    refuse_intervals(overrides)
    return BasicSweeper.split_arguments(overrides, None)[0]


def space_of(composer: Composer, cfg: DictConfig, arguments: Sequence[str] | None = None) -> Space:
    """What a search chooses from.

    Raises:
        ConfigError: it makes no sense.
    """
    space = read_space(_swept(composer, cfg, arguments), cfg.sweep.method)
    refuse_fractions(space, cfg)
    return space


def _swept(composer: Composer, cfg: DictConfig, arguments: Sequence[str] | None) -> list[Override]:
    words = [f"{key}={value}" for key, value in (OmegaConf.select(cfg, "hydra.sweeper.params") or {}).items()]
    words += overrides_of(cfg) if arguments is None else list(arguments)
    return composer.parse(words)


def _check_combination(composer: Composer, master: DictConfig, words: Sequence[str]) -> DictConfig:
    """Compose and check one job of a sweep.

    Raises:
        ConfigError: it cannot run.
    """
    everything = [*overrides_of(master, "hydra"), *words]
    overrides = composer.parse(everything)
    try:
        cfg = composer.loader.load_sweep_config(master, list(words))
    except Exception as error:
        raise explain(error, overrides, composer) from None
    _name_output_dir(cfg)
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = 0, "0"
        cfg.hydra.mode = master.hydra.mode  # a job alone does not know that it is swept, and some settings cannot be
    origins = composer.origins(everything)
    validate_hydra(cfg, origins)
    if cfg.hydra.launcher != master.hydra.launcher:
        raise ConfigError(
            "hydra/launcher",
            cfg.hydra.launcher.get("_target_"),
            "cannot be chosen inside a swept experiment: Hydra would ignore it",
            where=origins.where("hydra.launcher"),
            hint="choose it on the command line",
        )
    validate(cfg, origins)
    _job_agrees(cfg)
    return cfg


def judged(loader: Any, master: DictConfig, words: Sequence[str]) -> DictConfig:
    """Compose and check one job of a sweep whose combinations nobody knew beforehand.

    Args:
        loader: Hydra's own.
        master: the sweep's configuration.
        words: the overrides of the job.

    Raises:
        ConfigError: it cannot run.
    """
    composer = Composer(master.hydra.job.config_name, loader=loader)
    return _check_combination(composer, master, words)


def handed_over(master: DictConfig, words: Sequence[str]) -> DictConfig | None:
    """The job that was composed and checked with these overrides before Hydra started, once; composing is slow.

    Args:
        master: the sweep's configuration as Hydra composed it, whose times and random names the job takes over.
        words: the overrides of the job.
    """
    cfg = _checked.pop(tuple(words), None)
    if cfg is not None:
        with read_write(cfg.hydra), open_dict(cfg.hydra):  # what Hydra's own start adds to a composition
            cfg.hydra.mode = master.hydra.mode
            cfg.hydra.overrides.hydra = master.hydra.overrides.hydra
            cfg.hydra.job.name = master.hydra.job.name
        OmegaConf.copy_cache(from_config=master, to_config=cfg)
    return cfg


def _announce_targets(composer: Composer, jobs: Sequence[DictConfig]) -> None:
    """Say once where what may be built was changed: an experiment file from elsewhere brings its own list."""
    for allowed, cfg in {allowed_targets(cfg): cfg for cfg in jobs}.items():
        if allowed != ALLOWED_TARGETS:
            origins = composer.origins([*overrides_of(cfg, "hydra"), *overrides_of(cfg)])
            where = origins.where("security.allowed_targets")
            print(f"security.allowed_targets is not the default ({where}): {', '.join(allowed)}", file=sys.stderr)


def _waits_for_results(cfg: DictConfig) -> None:
    """Refuse a sweeper that would read results which nobody waits for.

    Raises:
        ConfigError: ``wait=false`` with a sweeper that is not known to do without results.
    """
    sweeper = str(OmegaConf.select(cfg, "hydra.sweeper._target_"))
    if not cfg.wait and not sweeper.endswith((".BrainlabSweeper", ".BasicSweeper")):
        raise ConfigError(
            "wait",
            "false",
            f"{sweeper.rpartition('.')[2]} chooses jobs from the results of earlier ones, so it must wait for them",
            where="command line",
            hint="leave out wait=false, or hydra/sweeper",
        )


def _check_cluster(cfg: DictConfig) -> None:
    """Refuse to submit from a machine without SLURM, before the sweep's folder exists.

    Raises:
        ConfigError: the launcher needs ``sbatch`` and there is none.
    """
    target = str(OmegaConf.select(cfg, "hydra.launcher._target_"))
    if target.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher",
            cfg.hydra.runtime.choices.get("hydra/launcher", target),
            "expected a machine with SLURM: there is no sbatch on the PATH",
            where="command line",
            hint="run it on the cluster's login node, or leave hydra/launcher out",
        )


def _job_agrees(cfg: DictConfig) -> None:
    """Let one of our jobs refuse what it cannot do; they are light, another's may be anything."""
    from brainlab.config.build import build

    if not admitted(str(cfg.job.get("_target_")), ("brainlab.run",)):
        return
    job = build(cfg.job, path="job")
    if hasattr(job, "check"):
        job.check(cfg)


def _name_output_dir(cfg: DictConfig) -> None:
    # Hydra fills this in when the job starts; until then values that mention it must resolve as well.
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.runtime.output_dir = "."
    composing.publish(cfg)


def _launcher_needs_multirun(line: CommandLine, cfg: DictConfig, multirun: bool) -> None:
    target = str(OmegaConf.select(cfg, "hydra.launcher._target_"))
    if multirun or target == "hydra._internal.core_plugins.basic_launcher.BasicLauncher":
        return
    chosen = cfg.hydra.runtime.choices.get("hydra/launcher", target)
    raise ConfigError(
        "hydra/launcher",
        chosen,
        "a launcher works only with -m",
        where="command line",
        hint=line.pasteable(multirun=True),
    )


def _report(
    composer: Composer,
    cfg: DictConfig,
    jobs: Sequence[DictConfig],
    script: Callable[[DictConfig, int], str | None] | None,
) -> None:
    if cfg.validate == "full":
        _import_all(jobs)
    n_jobs, searched = len(jobs), is_search(cfg) and "MULTIRUN" in str(cfg.hydra.mode)
    noun = "job" if n_jobs == 1 else "jobs"
    where = " (each end and choice of the space)" if searched else ""
    print(f"OK: {n_jobs} {noun} checked{where}, nothing written")
    print(f"allowed targets: {', '.join(allowed_targets(cfg))}")
    if cfg.dry:
        if searched:
            sweep = cfg.sweep
            n_jobs = sweep.n_trials if sweep.method == "random" else sweep.n_parallel or 1
            print(f"{sweep.n_trials} trials by sweep={sweep.method} for the {sweep.mode} of {sweep.metric}, over:")
            for key, text in space_of(composer, cfg).described().items():
                print(f"  {key}={text}")
        else:
            for number, job in enumerate(jobs):
                print(f"  {number}: {' '.join(overrides_of(job)) or '(defaults)'}")
        given = script(cfg, n_jobs) if script is not None else None
        if given is not None:
            noun = "job" if n_jobs == 1 else "jobs"
            print(f"sbatch would be given, for {n_jobs} {noun}:\n{given}")
    sys.stdout.flush()


def _import_all(jobs: Sequence[DictConfig]) -> None:
    from brainlab.config.build import import_target

    done: set[str] = set()
    for job in jobs:
        for key, target in all_targets(job):
            if target not in done:
                import_target(target, key, allowed_targets(job))
                done.add(target)


def _flag(line: CommandLine, *names: str) -> Any:
    for index, word in enumerate(line.flags[:-1]):
        if word in names:
            return line.flags[index + 1]
    return None
