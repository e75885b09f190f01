"""What is told of the work: logs, metrics and traces. Imported by whoever works, and importing nothing of it."""
