"""The GGUF container: what a file holds, reading it, writing it, comparing it. Nothing here knows about training."""
