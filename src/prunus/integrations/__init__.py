"""Protocols and trainers of other libraries: each module is imported by name."""

__all__: list[str] = []
