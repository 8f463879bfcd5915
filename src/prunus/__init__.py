"""Prunus learns the structure of neural networks."""
