"""Grow, push, prune, and compare with rivals of the same run: `prunus search`."""
