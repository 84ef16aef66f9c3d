"""Training runs in other processes: ablations, and jobs of SLURM."""
