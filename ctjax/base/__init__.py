"""What imports nothing of ours: constants, errors, libraries, the user's cache."""
