"""The rivals: batchers as a careful engineer writes them in plain Python, and one from PyPI."""
