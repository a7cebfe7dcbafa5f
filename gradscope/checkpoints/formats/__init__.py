"""Readers, one per format, and the files that several of them share."""
