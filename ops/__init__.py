"""What a person touches: the command line, a local system, the doctor."""
