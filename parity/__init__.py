"""Does the engine answer as modelscope's own pipeline does? `python -m parity` builds the reference and compares."""
