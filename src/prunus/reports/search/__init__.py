"""The page of a structure search, and its summary in the terminal."""

from prunus.reports.search.console import print_search
from prunus.reports.search.page import is_search, render_search

__all__ = [
    "is_search",
    "print_search",
    "render_search",
]
