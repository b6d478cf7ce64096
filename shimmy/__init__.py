"""Shimmy: every local language model, served to every client, from one executable."""

__version__ = "0.1.0"
