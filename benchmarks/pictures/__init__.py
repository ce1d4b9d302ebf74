"""The pictures of docs/how-to/observe.md, from a real run; `python -m benchmarks.pictures`."""
