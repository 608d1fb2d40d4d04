"""Draws pictures of what runs have left."""
