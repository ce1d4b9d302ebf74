"""Instruction counts of the hot path; `python -m benchmarks.callgrind.count_submit`."""
