"""Differential fuzzing: whatever runs an op, beside the float64 oracle, on drawn problems."""
