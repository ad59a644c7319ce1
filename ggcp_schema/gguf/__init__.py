"""From a checkpoint to GGUF: names, mappings to entries, the writer, and the proof of what was written."""
