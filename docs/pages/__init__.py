"""The generated pages of the documentation, one file per kind; ``docs/generate.py`` writes them.

Each file has ``pages()``, which yields a path and what is to stand there.
"""
