"""ggcp checkpoints of llama.cpp's train-text-from-scratch."""
