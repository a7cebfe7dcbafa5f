"""Two reports side by side: what is held against what, and what a reader sees of it."""
