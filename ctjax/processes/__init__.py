"""Finds, joins, watches and ends the processes of a run.

launchers      what a launcher says about a process; the CPUs that are its own
coordinator    the address at which the processes meet; alone imports mpi4py
join           the processes joined, by jax's own runtime
store          what they tell each other
liveness       all end soon after one has ended, and say which
watchdog       a run whose steps do not end is ended
stop_requests  a training is asked to stop early
"""
