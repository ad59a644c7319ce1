"""Tensor records, as ggcp, ggcl, ggla, ggjt, ggmf and ggml files have them: read, and found again after damage."""
