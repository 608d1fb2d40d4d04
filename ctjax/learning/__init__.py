"""Pure functions of arrays and plain values; no file and no process."""
