"""sentencepiece's tokenizer.model files."""
