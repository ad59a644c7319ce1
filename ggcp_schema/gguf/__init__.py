"""GGUF files as outputs: writing one, and comparing what was written. Nothing here knows about training."""
