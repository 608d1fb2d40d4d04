"""The larcv3 file format and nothing else."""
