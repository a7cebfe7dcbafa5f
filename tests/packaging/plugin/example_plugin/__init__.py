"""A rule and a remedy of another package."""
