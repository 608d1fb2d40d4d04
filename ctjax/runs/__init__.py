"""What a run does, composed of everything below."""
