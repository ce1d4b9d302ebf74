"""Web services in front of one perceptron, alone, batched by hand and with tidegate."""
