"""Requests to an absent server, signs of life, the log of a run."""
