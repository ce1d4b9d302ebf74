"""Requests of all lengths in front of one model: padded, in length buckets, and packed."""
