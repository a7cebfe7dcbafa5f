"""Imported by place.py."""

SEED = 11
