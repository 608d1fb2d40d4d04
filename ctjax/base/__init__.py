"""What imports nothing of ours: constants, errors, libraries, what a machine has."""
