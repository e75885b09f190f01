"""`caption-audit doctor`: looks at what the system stands on, and changes nothing. A topic is a file."""
