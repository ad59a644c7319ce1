"""Speed and memory, measured by hand with `python -m tests.benchmarks`. No test depends on a time."""
