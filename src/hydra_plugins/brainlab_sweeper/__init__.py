"""The sweeper that runs every combination; all were judged before Hydra started."""
