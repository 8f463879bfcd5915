"""Other libraries' protocols and trainers: each module is imported by name, with its library."""

__all__: list[str] = []
