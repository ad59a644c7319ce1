"""What is made of files: plans of GGUF files, folders and adapters, carrying them out, and comparing the results."""
