"""The job that runs named stages one after another, each an ordinary run that the next can build on.

A finished stage is published in the content-hash cache under its own fingerprint: the same stage in another task of a
sweep, or after a kill, is taken from there. A stage that was killed halfway is continued from its own checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from brainlab.config.resolved import overrides_of
from brainlab.config.run_folder import FOLDER_NAME
from brainlab.config.schema import ALLOWED_TARGETS
from brainlab.config.targets import allowed_targets
from brainlab.errors import ConfigError
from brainlab.run.context import Run
from brainlab.run.directory import RunDirectory, read_json, write_json
from brainlab.run.fingerprint import Fingerprint, of_config, plain_config
from brainlab.run.stages import outputs, register_resolver
from brainlab.run.weights import fingerprint_weights, weights_of

__all__ = ["Chain", "Stage"]

log = logging.getLogger(__name__)

_PUBLISHED = ("results.json", "resolved.yaml", "fingerprint.txt", "report.html", "env.json")
_PUBLISHED_FOLDERS = ("figures", "rollouts")
_OF_THE_CHAIN = frozenset(
    {
        "job",
        "paths",
        "logger",
        "sweep",
        "security",
        "tags",
        "experiment_name",
        "validate",
        "dry",
        "wait",
        "resume",
        "rerun",
    }
)
_OFFERED = ("checkpoint", "folder", "fingerprint", "score")


@dataclass(frozen=True)
class Stage:
    """One stage: its name, its overrides and the configuration composed from them."""

    name: str
    overrides: list[str]
    cfg: DictConfig


@dataclass(frozen=True)
class _Plan:
    """A stage as it is written: overrides, what it takes (its key → the chain's), whether it may be left out."""

    words: list[str]
    take: Mapping[str, str]
    optional: bool = False


class Chain:
    """Run stages in order.

    Args:
        stages: name → overrides of that stage, as a list of ``key=value`` words or as a mapping; null drops a stage. A
            value may refer to an earlier stage: ``${stage:NAME.checkpoint}``, ``.folder``, ``.fingerprint`` or
            ``.score``. A stage that works on parts of the chain's own configuration is a mapping:
            ``take``, a list of such parts (``[data, seed]``) or a mapping from the stage's key to the chain's, and
            ``overrides``, which win over what was taken. ``optional: true`` beside them leaves the stage out where
            nothing refers to what it makes.
    """

    def __init__(self, stages: Mapping[str, Any] | None = None) -> None:
        if not stages:
            raise ConfigError(
                "job.stages",
                stages,
                "expected at least one stage",
                hint="on the command line: \"+job.stages.NAME=['experiment=eeg_pretrain']\"",
            )
        for name in stages:
            if not FOLDER_NAME.fullmatch(str(name)):
                raise ConfigError(
                    "job.stages",
                    name,
                    "expected letters, digits, '_', '.' or '-' in a stage's name, the first a letter or digit: "
                    "it names a folder",
                )
        self.stages = {str(name): _parts(str(name), entry) for name, entry in stages.items() if entry is not None}
        if not self.stages:
            raise ConfigError("job.stages", "null", "expected at least one stage that is not null")
        self._checked: list[Stage] | None = None

    def check(self, cfg: DictConfig) -> None:
        """Compose and validate every stage; nothing is written.

        Raises:
            ConfigError: naming the first stage that cannot work, or a setting that no stage would see.
        """
        _refuse_unseen(cfg, {source for stage in self.stages.values() for source in stage.take.values()})
        self._checked = self._composed(cfg)

    def __call__(self, cfg: DictConfig, run: Run) -> float | None:
        stages = self._checked or self._composed(cfg)
        log.info("chain of %d stages: %s", len(stages), " → ".join(stage.name for stage in stages))
        done: dict[str, dict[str, Any]] = {}
        for position, stage in enumerate(stages, 1):
            log.info("── stage %d of %d: %s", position, len(stages), stage.name)
            if (allowed := allowed_targets(stage.cfg)) not in (allowed_targets(cfg), ALLOWED_TARGETS):
                log.warning("this stage's security.allowed_targets is not the default: %s", ", ".join(allowed))
            done[stage.name] = _run_stage(stage, cfg, run, done)
        fingerprint = run.settle_fingerprint()
        last = read_json(Path(done[stages[-1].name]["folder"]) / "results.json") or {}
        _conclude(cfg, run, done, last, fingerprint)
        score = (last.get("best") or {}).get("score")
        return None if score is None else float(score)

    def _needed(self, cfg: DictConfig) -> dict[str, _Plan]:
        """The stages without the optional ones that nothing refers to."""
        needed: dict[str, _Plan] = {}
        texts: list[str] = []
        for name, plan in reversed(self.stages.items()):
            if plan.optional and not any("${stage:" + name + "." in text for text in texts):
                continue
            needed[name] = plan
            texts += plan.words
            for source in plan.take.values():
                node = OmegaConf.select(cfg, source, throw_on_missing=False)
                texts.append(OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else "")
        return dict(reversed(needed.items()))

    def _composed(self, cfg: DictConfig) -> list[Stage]:
        """Every stage's configuration, checked before the first one starts."""
        from brainlab.config.compose import Composer
        from brainlab.config.validate import validate

        register_resolver()
        composer = Composer()
        found: list[Stage] = []
        for name, plan in self._needed(cfg).items():
            words = plan.words
            earlier = {stage.name: {what: f"<{stage.name}.{what}>" for what in _OFFERED} for stage in found}
            try:
                composed = composer.compose(words)
                with open_dict(composed):
                    composed.paths = OmegaConf.create(OmegaConf.to_container(cfg.paths, resolve=True))
                    if not any(word.startswith("logger") for word in words):
                        composed.logger = cfg.get("logger")
                    composed.pop("hydra", None)
                    _take(
                        composed,
                        cfg,
                        plan.take,
                        [w for w in composer.parse(words) if w.key_or_group not in composer.groups],
                    )
                with outputs(earlier):
                    validate(composed, composer.origins(words))
                    plain_config(composed)
            except ConfigError as error:
                raise ConfigError(f"job.stages.{name}", " ".join(words), str(error).rstrip(".")) from error
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise ConfigError(
                    f"job.stages.{name}", " ".join(words), f"expected overrides that compose ({reason})"
                ) from error
            found.append(Stage(name, words, composed))
        return found


def _take(composed: DictConfig, cfg: DictConfig, take: Mapping[str, str], words: Sequence[Any]) -> None:
    """Put the parts of the chain's configuration into a stage's, then the stage's own words below them once more."""
    for target, source in take.items():
        missing = object()
        found = OmegaConf.select(cfg, source, default=missing, throw_on_missing=False)
        if found is missing:
            raise ConfigError("take", source, "expected a key of the chain's configuration")
        plain = OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found
        # A typed part keeps its type; it has the same keys here and there, so that nothing of it is left.
        typed = is_dataclass(OmegaConf.get_type(OmegaConf.select(composed, target, throw_on_missing=False)))
        OmegaConf.update(composed, target, plain, merge=typed, force_add=True)
    for word in words:
        key = word.key_or_group
        if not word.is_delete() and any(key == part or key.startswith(part + ".") for part in take):
            OmegaConf.update(composed, key, word.value(), merge=False, force_add=True)


def _refuse_unseen(cfg: DictConfig, taken: set[str]) -> None:
    """A sweep over something that reaches no stage would be the same chain again and again."""
    if "hydra" not in cfg or "MULTIRUN" not in str(cfg.hydra.mode):
        return
    written = OmegaConf.to_yaml(cfg.job, resolve=False)
    for word in overrides_of(cfg):
        key, _, value = word.lstrip("+~").partition("=")
        if key.partition(".")[0] in _OF_THE_CHAIN or key in cfg.hydra.runtime.choices or f"${{{key}" in written:
            continue
        if any(key == part or key.startswith(part + ".") or part.startswith(key + ".") for part in taken):
            continue
        raise ConfigError(
            key,
            value,
            "reaches no stage of this chain: each has its own settings",
            where="command line",
            hint=f"write '{key}=${{{key}}}' into a stage of job.stages",
        )


def _run_stage(stage: Stage, cfg: DictConfig, run: Run, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Run ``stage`` or take it from the cache; returns what later stages may refer to."""
    from brainlab.io.cache import Cache, code_digest
    from brainlab.run import assemble
    from brainlab.run.execute import execute

    folder = run.path / "stages" / stage.name
    with outputs(done):
        data = assemble.build_data(stage.cfg)
        data.prepare_data()  # its content is part of the stage's fingerprint
        data.setup("fit")
        start = fingerprint_weights(weights_of(plain_config(stage.cfg)))
    with outputs({name: {what: f"{what} of {made['fingerprint']}" for what in made} for name, made in done.items()}):
        config = of_config(plain_config(stage.cfg))
    content = getattr(data, "fingerprint", None)
    content = content if start is None else f"{content}+{start}"
    fingerprint = Fingerprint(config.config, config.growth, getattr(data, "source", None), content)
    del data
    ran = False

    def build(target: Path) -> None:
        nonlocal ran
        ran = True
        folder.mkdir(parents=True, exist_ok=True)
        with outputs(done):
            execute(stage.cfg, folder=folder, overrides=stage.overrides)
        _publish(RunDirectory(folder), target)

    recipe = {"code": code_digest(), "fingerprint": fingerprint.value, "growth": dict(fingerprint.growth)}
    made = Cache(str(cfg.paths.cache)).get("stage", recipe, {}, build)
    if not ran:
        log.info("stage %s was finished before: %s", stage.name, made)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "reused.json", {"from": str(made), "fingerprint": fingerprint.value})
    stored = json.loads((made / "outputs.json").read_text(encoding="utf-8"))
    return {
        "checkpoint": str(made / stored["checkpoint"]) if stored["checkpoint"] else None,
        "folder": str(made),
        "fingerprint": fingerprint.value,
        "score": stored["score"],
        "reused": not ran,
    }


def _publish(source: RunDirectory, target: Path) -> None:
    """Copy what later stages and readers need from a finished run."""
    results = read_json(source.results) or {}
    checkpoint = source.best if source.best.exists() else source.last
    for name in _PUBLISHED:
        if (source.path / name).exists():
            shutil.copy2(source.path / name, target / name)
    for name in _PUBLISHED_FOLDERS:
        if (source.path / name).is_dir():
            shutil.copytree(source.path / name, target / name)
    if checkpoint.exists():
        shutil.copy2(checkpoint, target / "checkpoint.ckpt")
    write_json(
        target / "outputs.json",
        {
            "checkpoint": "checkpoint.ckpt" if checkpoint.exists() else None,
            "score": (results.get("best") or {}).get("score"),
            "run_dir": str(source.path),
        },
    )


def _conclude(
    cfg: DictConfig,
    run: Run,
    done: Mapping[str, Mapping[str, Any]],
    last: Mapping[str, Any],
    fingerprint: Fingerprint,
) -> None:
    from brainlab.run.conclude import headline_line
    from brainlab.run.report import write_report

    sources = [(read_json(Path(made["folder"]) / "results.json") or {}).get("data_source") for made in done.values()]
    rows = [[name, "reused" if made["reused"] else "ran", made["score"], made["folder"]] for name, made in done.items()]
    end = Path(done[list(done)[-1]]["folder"])
    results = {
        "experiment": cfg.get("experiment_name"),
        "run_dir": str(run.path),
        "state": "COMPLETED",
        "data_source": "synthetic" if "synthetic" in sources else "files",
        "fingerprint": fingerprint.value,
        "seed": cfg.get("seed"),
        "monitor": last.get("monitor") or {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode},
        "best": {**(last.get("best") or {}), "checkpoint": done[list(done)[-1]]["checkpoint"]},
        "headline": last.get("headline"),
        "metrics": last.get("metrics") or {},
        "notes": [f"Metrics are those of the last stage, {list(done)[-1]}.", *(last.get("notes") or [])],
        "details": last.get("details") or {},
        "tables": [
            {"name": "stages", "caption": "Stages", "header": ["stage", "", "best score", "result"], "rows": rows},
            *(last.get("tables") or []),
        ],
        "figures": _figures(end, last, run.directory),
        "stages": {name: dict(made) for name, made in done.items()},
        "data": last.get("data") or {},
        "wall_s": round(run.status.wall_s, 1),
        "attempts": run.attempt,
    }
    _offer_checkpoint(done[list(done)[-1]]["checkpoint"], run.directory)
    write_json(run.directory.results, results)
    write_report(run, results, {})
    line = headline_line(results)
    if results["data_source"] == "synthetic":
        line = f"{line}  [simulated data]"
    log.info("%s\nreport: %s", line, run.directory.report)


def _figures(stage: Path, last: Mapping[str, Any], directory: RunDirectory) -> list[dict[str, Any]]:
    """The last stage's figures, copied beside the chain's report."""
    found = []
    for figure in last.get("figures") or []:
        source, target = stage / figure["file"], directory.path / figure["file"]
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            found.append(dict(figure))
    return found


def _offer_checkpoint(checkpoint: str | None, directory: RunDirectory) -> None:
    """The last stage's checkpoint under the name that a run's best one has, so that ``job=evaluate`` finds it."""
    if checkpoint is None:
        return
    directory.best.parent.mkdir(parents=True, exist_ok=True)
    directory.best.unlink(missing_ok=True)
    shutil.copy2(checkpoint, directory.best)


def _parts(name: str, entry: Any) -> _Plan:
    if not isinstance(entry, Mapping) or not entry or not set(entry) <= {"take", "overrides", "optional"}:
        return _Plan(_words(name, entry), {})
    take = entry.get("take") or {}
    if isinstance(take, Mapping):
        taken = {str(target): str(source) for target, source in take.items()}
    elif isinstance(take, Sequence) and not isinstance(take, str):
        taken = {str(part): str(part) for part in take}
    else:
        raise ConfigError(f"job.stages.{name}.take", take, "expected a list or a mapping of keys", hint="take: [data]")
    return _Plan(_words(name, entry.get("overrides") or []), taken, bool(entry.get("optional")))


def _words(name: str, entry: Any) -> list[str]:
    if isinstance(entry, Mapping):
        return [f"{key}={value}" for key, value in entry.items()]
    if isinstance(entry, Sequence) and not isinstance(entry, str) and all(isinstance(word, str) for word in entry):
        return [str(word) for word in entry]
    raise ConfigError(
        f"job.stages.{name}", entry, "expected a list of overrides", hint=f"job.stages.{name}=[experiment=NAME]"
    )
