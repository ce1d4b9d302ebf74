"""The table of the write-up that tidegate descends from: a Go inference server, FastAPI, tidegate."""
