"""Chooses and runs the implementations of a convolution."""
