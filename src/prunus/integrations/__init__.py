"""Other libraries' protocols spoken: each module is imported by name, with its library."""

__all__: list[str] = []
