"""Sweeps: what their jobs are, where they run, how they ended."""
