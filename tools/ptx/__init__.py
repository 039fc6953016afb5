"""Runs PTX on a CPU, every access checked: see docs/ptx.md."""
