"""Finds, joins, watches and ends the processes of a run."""
