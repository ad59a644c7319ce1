"""Checkpoints and the other files of 2023 as typed objects, and what opens them."""
