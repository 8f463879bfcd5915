"""Help that lists the entries of the registries, and imports them only when it is shown."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["ListingCommand"]


class ListingCommand(TyperCommand):
    """Puts the known names into help texts: {criteria}, {formats} and so on.

    The registries are in packages that import torch, which takes seconds; parsing does not need
    them.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the command."""
        from prunus.criteria import CRITERIA  # noqa: PLC0415
        from prunus.export import FORMATS  # noqa: PLC0415
        from prunus.plan import ALLOCATIONS  # noqa: PLC0415
        from prunus.surgery import COMPENSATIONS  # noqa: PLC0415

        known = {
            "{criteria}": ", ".join(CRITERIA),
            "{allocations}": ", ".join(ALLOCATIONS),
            "{compensations}": ", ".join(COMPENSATIONS),
            "{formats}": ", ".join(FORMATS),
        }
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            for mark, names in known.items():
                text = text.replace(mark, names) if text else text
            if text:
                parameter.help = text  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
