"""Bytes of files: where they are, whether they are there, and how tensors look at them."""
