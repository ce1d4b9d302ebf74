"""Benchmarks of tidegate beside what people write by hand; `python -m benchmarks.compare`."""
