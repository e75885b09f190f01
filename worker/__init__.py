"""From a chunk to outcomes."""
