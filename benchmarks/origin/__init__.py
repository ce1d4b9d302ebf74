"""The table of the write-up that tidegate descends from: Go, FastAPI, grpc.aio, tidegate."""
