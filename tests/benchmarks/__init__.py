"""Speed and memory, measured by hand: `python -m tests.benchmarks`. Not tests: a busy machine is not a failure."""
