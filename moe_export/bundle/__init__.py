"""Bundling: a model of one target becomes a folder that is whole or absent."""
