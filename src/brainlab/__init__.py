"""brainlab: one Hydra-configured framework for deep-learning experiments on brain data."""

__all__ = ["__version__"]

__version__ = "0.1.0"
