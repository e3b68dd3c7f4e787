"""SLURM: what ``hydra/launcher=submitit_slurm`` asks of the cluster, and how its jobs are started."""
