"""Writes the raw layout of THINGS-EEG2 with a planted code, so that every reader and pipeline runs without data.

A trial of picture i is x = e + Σ_k c_ik P_k + noise: e is the response that all pictures share, c the latent vector of
the picture, P_k the (channel, time) pattern of one latent. Patterns are smooth topographies times damped waves of 2 to
14 Hz; noise is Gaussian with covariance (smooth over the scalp) ⊗ (second-order autoregressive in time), so the best
possible decoder is known in closed form (:func:`brainlab.synthetic.latents.bayes_top1`).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from brainlab.datasets.things_eeg import CHANNELS_17, CHANNELS_63
from brainlab.synthetic.latents import PictureRenderer

__all__ = ["EegModel", "channel_positions", "concept_folders", "write_eeg_17", "write_eeg_250", "write_image_set"]

_ROWS = {
    "Fp": 72,
    "AF": 54,
    "F": 36,
    "FT": 18,
    "FC": 18,
    "T": 0,
    "C": 0,
    "TP": -18,
    "CP": -18,
    "P": -36,
    "PO": -54,
    "O": -72,
}


def channel_positions(names: Sequence[str]) -> Float[np.ndarray, "channel 3"]:
    """Positions on a unit head from the grammar of 10-10 names: row by letters, side and distance by the number.

    >>> channel_positions(["Cz"]).round(2).tolist()
    [[0.0, 0.0, 1.0]]
    """
    points = []
    for name in names:
        letters = name.rstrip("z0123456789")
        number = name[len(letters) :]
        steps = 0 if number == "z" else (int(number) + 1) // 2
        side = 0.0 if number == "z" else (-1.0 if int(number) % 2 else 1.0)
        row, lateral = np.radians(_ROWS[letters]), np.radians(18.0 * steps * side)
        points.append((np.sin(lateral), np.sin(row) * np.cos(lateral), np.cos(row) * np.cos(lateral)))
    return np.array(points)


@dataclass(frozen=True)
class EegModel:
    """The planted generator of one subject's EEG on one channel set and time grid.

    Attributes:
        patterns: response per unit of each latent, µV.
        evoked: response that all pictures share, µV.
        spatial: covariance of the noise over channels, µV².
        temporal: correlation of the noise over time (unit diagonal).
    """

    patterns: Float[np.ndarray, "dim channel time"]
    evoked: Float[np.ndarray, "channel time"]
    spatial: Float[np.ndarray, "channel channel"]
    temporal: Float[np.ndarray, "time time"]

    @classmethod
    def draw(
        cls,
        *,
        subject: int,
        dim: int,
        times_s: Float[np.ndarray, " time"],
        information: float,
        subject_deviation: float,
        noise_uv: float,
        scalp_length: float,
        sensor_share: float,
        n_components: int,
        n_modes: int,
        seed: int,
    ) -> EegModel:
        """Draw the generator of ``subject`` (0-based); subjects of one seed share everything but a deviation.

        Args:
            information: mean Fisher information that one trial holds on one latent (1 = as uncertain after the trial
                as a unit-variance prior).
            subject_deviation: size of the subject's own part of the patterns, relative to the common part.
            noise_uv: standard deviation of the noise.
            scalp_length: distance over which noise and topographies change, in head radii.
            sensor_share: share of the noise variance that is independent from channel to channel.
            n_components: damped waves that build the time courses.
            n_modes: smooth topographies that build the patterns.
        """
        position = channel_positions(CHANNELS_63)
        distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
        # Vision is read out over the back of the head, where the brain's own rhythms are strongest too.
        behind = 0.3 + 0.7 / (1.0 + np.exp(4.0 * position[:, 1]))
        smooth = np.outer(behind, behind) * np.exp(-0.5 * (distance / scalp_length) ** 2)
        smooth /= np.mean(np.diag(smooth))
        spatial = noise_uv**2 * ((1 - sensor_share) * smooth + sensor_share * np.eye(len(position)))
        temporal = _autoregressive_correlation(times_s, slow_s=0.080, fast_s=0.008)
        waves = _damped_waves(times_s, n_components)
        strength, modes = np.linalg.eigh(smooth)
        # Topographies use the strongest modes of the noise only: no information hides where noise happens to be small,
        # which no network could learn from some thousand trials.
        root = modes[:, -n_modes:] * np.sqrt(strength[-n_modes:])

        def field(rng: np.random.Generator) -> Float[np.ndarray, "dim channel time"]:
            topography = np.einsum("cm,kmr->kcr", root, rng.standard_normal((dim, n_modes, n_components)))
            # A latent speaks through three of the components, mostly the first of them.
            weight = np.zeros((dim, n_components))
            for k in range(dim):
                chosen = rng.permutation(n_components)[:3]
                weight[k, chosen] = (1.0, 0.7, 0.5)[: len(chosen)]
            return np.einsum("kcr,kr,rt->kct", topography, weight, waves)

        common = field(np.random.default_rng([seed, 101]))
        gram = fisher_information(common, spatial, temporal)
        values, vectors = np.linalg.eigh(gram)
        # Equal information on every latent: none is invisible by the accident of the draw.
        equal = (vectors / np.sqrt(values)) @ vectors.T
        common = np.einsum("jk,kct->jct", equal, common)
        own = np.einsum("jk,kct->jct", equal, field(np.random.default_rng([seed, 102, subject])))
        patterns = common + subject_deviation * own
        held = np.trace(fisher_information(patterns, spatial, temporal)) / dim
        patterns *= np.sqrt(information / held)
        rng = np.random.default_rng([seed, 103])
        topography = root @ rng.standard_normal((n_modes, n_components))
        evoked = 0.2 * noise_uv * topography @ waves
        return cls(patterns, evoked, spatial, temporal)

    def select(self, channels: Sequence[int]) -> EegModel:
        """The same generator seen by a subset of the channels."""
        pick = list(channels)
        return EegModel(self.patterns[:, pick], self.evoked[pick], self.spatial[np.ix_(pick, pick)], self.temporal)

    @property
    def information(self) -> Float[np.ndarray, "dim dim"]:
        """Fisher information of one trial on the latents."""
        return fisher_information(self.patterns, self.spatial, self.temporal)

    def simulate(
        self, latents: Float[np.ndarray, "image dim"], n_repetitions: int, rng: np.random.Generator
    ) -> Float32[np.ndarray, "image repetition channel time"]:
        """Trials of every picture, µV."""
        n_channels, n_times = self.evoked.shape
        clean = latents.astype(np.float32) @ self.patterns.reshape(len(self.patterns), -1).astype(np.float32)
        clean = clean.reshape(-1, n_channels, n_times) + self.evoked.astype(np.float32)
        mix = np.linalg.cholesky(self.spatial).astype(np.float32)
        colour = np.linalg.cholesky(self.temporal).astype(np.float32).T
        trials = np.empty((len(latents), n_repetitions, n_channels, n_times), np.float32)
        for first in range(0, len(latents), 64):
            part = slice(first, min(first + 64, len(latents)))
            n_trials = trials[part].shape[0] * n_repetitions
            # Channels first: each of the two colourings is then one large matrix product.
            white = rng.standard_normal((n_channels, n_trials * n_times), dtype=np.float32)
            noise = (mix @ white).reshape(-1, n_times) @ colour
            noise = noise.reshape(n_channels, -1, n_repetitions, n_times).transpose(1, 2, 0, 3)
            np.add(noise, clean[part, None], out=trials[part])
        return trials


def fisher_information(
    patterns: Float[np.ndarray, "dim channel time"],
    spatial: Float[np.ndarray, "channel channel"],
    temporal: Float[np.ndarray, "time time"],
) -> Float[np.ndarray, "dim dim"]:
    """P Σ⁻¹ Pᵀ for noise whose covariance is spatial ⊗ temporal."""
    half = np.linalg.solve(np.linalg.cholesky(spatial), patterns)
    white = np.linalg.solve(np.linalg.cholesky(temporal), half.transpose(0, 2, 1))
    flat = white.reshape(len(patterns), -1)
    return flat @ flat.T


def _autoregressive_correlation(
    times_s: Float[np.ndarray, " time"], slow_s: float, fast_s: float
) -> Float[np.ndarray, "time time"]:
    """Autocorrelation of a stationary AR(2) process with two real poles, given as time constants."""
    step = float(times_s[1] - times_s[0])
    p, q = np.exp(-step / slow_s), np.exp(-step / fast_s)
    lag = np.arange(len(times_s))
    rho = (p ** (lag + 1) * (1 - q**2) - q ** (lag + 1) * (1 - p**2)) / ((p - q) * (1 + p * q))
    return rho[np.abs(lag[:, None] - lag[None])]


def _damped_waves(times_s: Float[np.ndarray, " time"], n: int) -> Float[np.ndarray, "component time"]:
    """Gabor-shaped time courses from 90 to 700 ms: early ones fast, late ones slow; unit peak, silent before 0."""
    latency = np.linspace(0.09, 0.70, n)[:, None]
    frequency = np.linspace(13.0, 2.0, n)[:, None]
    width = np.clip(0.55 / frequency, 0.045, 0.14)
    phase = (np.arange(n) * 2.4)[:, None]
    wave = np.exp(-0.5 * ((times_s - latency) / width) ** 2)
    wave = wave * np.cos(2 * np.pi * frequency * (times_s - latency) + phase)
    return np.where(times_s >= 0, wave * (1 - np.exp(-np.clip(times_s, 0, None) / 0.02)), 0.0)


def write_eeg_250(
    root: Path,
    subject: str,
    part: str,
    model: EegModel,
    latents: Float[np.ndarray, "image dim"],
    n_repetitions: int,
    rng: np.random.Generator,
) -> None:
    """One part of a subject in the 63-channel, 250 Hz container: a bare pickle that is named .npy, float32, µV."""
    folder = root / "Preprocessed_data_250Hz" / subject
    folder.mkdir(parents=True, exist_ok=True)
    # The times cover −0.2 to 1 s although the samples begin at 0: so do those of the released files.
    content = {
        "preprocessed_eeg_data": model.simulate(latents, n_repetitions, rng),
        "ch_names": list(CHANNELS_63),
        "times": np.arange(-50, 250) / 250.0,
    }
    with (folder / f"preprocessed_eeg_{part}.npy").open("wb") as file:
        pickle.dump(content, file, protocol=4)


def write_eeg_17(
    root: Path,
    subject: str,
    part: str,
    model: EegModel,
    latents: Float[np.ndarray, "image dim"],
    n_repetitions: int,
    times_s: Float[np.ndarray, " time"],
    rng: np.random.Generator,
) -> None:
    """One part of a subject in the official 17-channel, 100 Hz container: a 0-d object array, float64, noise units."""
    folder = root / "project" / "eeg_dataset" / "preprocessed_data" / subject
    folder.mkdir(parents=True, exist_ok=True)
    posterior = model.select([CHANNELS_63.index(name) for name in CHANNELS_17])
    trials = posterior.simulate(latents, n_repetitions, rng).astype(np.float64)
    # The official pipeline divides by the noise covariance, so its numbers are noise standard deviations.
    trials /= np.sqrt(np.mean(np.diag(posterior.spatial)))
    content = {"preprocessed_eeg_data": trials, "ch_names": list(CHANNELS_17), "times": times_s}
    np.save(folder / f"preprocessed_eeg_{part}.npy", np.array(content, dtype=object), allow_pickle=True)


def concept_folders(n_train: int, n_test: int) -> tuple[list[str], list[str], list[str], list[str]]:
    """Folder names of the concepts: training and test in their own numbering, then both in the THINGS numbering.

    >>> concept_folders(2, 1)
    (['00001_acorn', '00002_aloe'], ['00001_anchor'], ['00001_acorn', '00002_aloe'], ['00003_anchor'])
    """
    words = _words(n_train + n_test)
    every = max((n_train + n_test) // max(n_test, 1), 1)
    test_rank = [rank for rank in range(len(words)) if rank % every == every - 1][:n_test]
    train_rank = [rank for rank in range(len(words)) if rank not in set(test_rank)]

    def name(number: int, rank: int) -> str:
        return f"{number + 1:05d}_{words[rank]}"

    return (
        [name(i, rank) for i, rank in enumerate(train_rank)],
        [name(i, rank) for i, rank in enumerate(test_rank)],
        [name(rank, rank) for rank in train_rank],
        [name(rank, rank) for rank in test_rank],
    )


def write_image_set(
    root: Path,
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    images_per_concept: int,
    train_latents: Float[np.ndarray, "image dim"],
    test_latents: Float[np.ndarray, "image dim"],
    renderer: PictureRenderer,
    size: int,
    rng: np.random.Generator,
) -> None:
    """The image set: JPEG folders of training and test pictures, and ``image_metadata.npy``.

    Args:
        train: (folder, THINGS folder) of each training concept.
        test: the same of each test concept; one picture each.
    """
    base = root / "image_set"
    metadata: dict[str, list[str]] = {}
    parts = (
        ("train", "training_images", train, images_per_concept, train_latents),
        ("test", "test_images", test, 1, test_latents),
    )
    for key, folder, concepts, each, latents in parts:
        row = [(name, things, _file_name(name, i)) for name, things in concepts for i in range(each)]
        metadata[f"{key}_img_concepts"] = [name for name, _, _ in row]
        metadata[f"{key}_img_concepts_THINGS"] = [things for _, things, _ in row]
        metadata[f"{key}_img_files"] = [file for _, _, file in row]
        for name, _ in concepts:
            (base / folder / name).mkdir(parents=True, exist_ok=True)
        for first in range(0, len(row), 64):
            pictures = renderer.render(latents[first : first + 64], size, rng)
            for picture, (name, _, file) in zip(pictures, row[first : first + 64], strict=True):
                Image.fromarray(picture).save(base / folder / name / file, quality=95)
    np.save(base / "image_metadata.npy", np.array(metadata, dtype=object), allow_pickle=True)


def _file_name(concept: str, number: int) -> str:
    return f"{concept.split('_', 1)[1]}_{number + 1:02d}{'b' if number == 0 else 's'}.jpg"


def _words(n: int) -> list[str]:
    """``n`` nouns in alphabetical order; numbered variants once the list is used up."""
    rounds = -(-n // len(_NOUNS))
    pool = list(_NOUNS) + [f"{noun}{r + 1}" for r in range(1, rounds) for noun in _NOUNS]
    return sorted(pool[:n])


_NOUNS = tuple(
    """
    acorn aloe anchor ant apple apron arrow axe backpack badge bagel balloon banana banjo barrel basket bat bead
    beaver bed bee bell belt bench bike bird boat bolt book boot bottle bow bowl box bread brick broom brush bucket
    buckle bus butter button cabin cactus cake camel camera candle canoe car carrot cat chain chair cheese cherry
    chest clock coat coin comb compass corn couch cow crab crayon crown cup curtain daisy deer desk dice dog doll
    donkey door dragonfly dress drill drum duck eagle egg elephant envelope fan feather fence fern fish flag flute
    fork fox frog garlic gate giraffe glove goat gong grape guitar hammer hammock harp hat helmet honey hook horn
    horse hose igloo iron island ivy jacket jar jeep juice kettle key kite knife knot ladder lamp leaf lemon lizard
    lock lute map mask melon mirror moose mop moth mug nail necklace needle nest net nut oar olive onion orange
    otter oven owl paddle paint pan parrot pear peg pencil piano pig pillow pin pipe
    """.split()  # noqa: SIM905 – readable as a block
)
