"""Adds brainlab's and the user's configuration folders to Hydra's search path."""
