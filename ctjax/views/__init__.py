"""Pictures of what runs have left."""
