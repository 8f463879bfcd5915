"""Rows that fail today, with the reason; a row that passes is taken off."""

KNOWN: dict[tuple[str, str], str] = {}

#: What `prune` changes today: it seeds the random numbers of the process.
KNOWN_CHANGES = (
    "random numbers of PyTorch",
    "random numbers of NumPy",
    "random numbers of Python",
)
