"""From a file to a batch."""
