"""One command for a machine that has a GPU: what nobody without one could run."""
