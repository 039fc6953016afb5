"""The libraries of the stand-in: none."""
