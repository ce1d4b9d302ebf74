"""What a GPU is checked and measured with: `python -m benchmarks.gpu`."""
