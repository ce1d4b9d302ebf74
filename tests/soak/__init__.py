"""Millions of requests of every kind, each of which must end once, with its own answer."""
