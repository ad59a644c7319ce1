"""The vocabulary and model files of llama.cpp before GGUF: ggml, ggmf and ggjt."""
