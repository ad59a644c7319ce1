"""From a checkpoint to the entries of a GGUF file, and what is known of the programs that wrote checkpoints."""
