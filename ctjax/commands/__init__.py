"""What a person can type besides a run."""
