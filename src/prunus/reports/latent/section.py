"""Class information of the last hidden layer, as the pages show it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from prunus.core import Row, trajectory
from prunus.reports.drawing import Drawing, draw
from prunus.reports.latent import words
from prunus.reports.latent.figures import (
    covariance_figure,
    dimension_figure,
    discriminant_figure,
    utility_figure,
    utility_histogram,
)
from prunus.reports.latent.words import LatentCut, LatentPlace

__all__ = ["LatentCuts", "LatentSection", "latent_cuts_section", "latent_section"]

HEADINGS = {
    "total": ("Total", "Σ_a"),
    "within": ("Within classes", "Σ_w"),
    "between": ("Between classes", "Σ_b"),
}


@dataclass(frozen=True, kw_only=True)
class LatentSection:
    """The section of `scores.html`; `dimensions` is None if accuracy was not measured."""

    absent: str = ""
    sentence: str = ""
    covariances: Sequence[Drawing] = ()
    signed: bool = True
    covariance_caption: str = ""
    utilities: Sequence[Drawing] = ()
    chosen: bool = False
    utility_caption: str = ""
    dimensions: Drawing | None = None
    dimension_caption: str = ""
    places: Sequence[LatentPlace] = ()
    hidden: int = 0


@dataclass(frozen=True, kw_only=True)
class LatentCuts:
    """The section of `report.html`: one row per cut, and the accuracies of the latest cut."""

    cuts: Sequence[LatentCut]
    caption: str
    dimensions: Drawing | None
    dimension_caption: str


def latent_section(latent: Row | None) -> LatentSection | None:
    """Return the section of `scores.json`'s `latent`, or None where the file has none."""
    if latent is None:
        return None
    if "absent" in latent:
        return LatentSection(absent=latent["absent"])
    places, hidden = words.latent_places(latent)
    dimensions, dimension_caption = _dimensions(latent["traced"])
    return LatentSection(
        sentence=words.latent_sentence(latent),
        covariances=[
            draw(
                f"covariance-{name}",
                covariance_figure(latent, name),
                f"covariance of the dimensions: {heading.lower()}",
                heading=heading,
                note=_subscripts(f"{symbol}, {words.covariance_note(latent, name)}"),
            )
            for name, (heading, symbol) in HEADINGS.items()
            if latent["drawn"]
        ],
        signed=latent["block"] == 1,
        covariance_caption=_subscripts(words.covariance_caption(latent)),
        utilities=[
            draw(name, figure, label, heading=heading)
            for name, figure, label, heading in (
                (
                    "utility-histogram",
                    utility_histogram(latent),
                    "histogram of the utilities of the dimensions",
                    "Utilities, histogram",
                ),
                (
                    "utility-sorted",
                    utility_figure(latent),
                    "utility of each dimension, largest first",
                    "Utilities, sorted",
                ),
                (
                    "discriminants",
                    discriminant_figure(latent),
                    "discriminants, largest first, and their running sum",
                    "Discriminants, sorted",
                ),
            )
        ],
        chosen=bool(latent["traced"]),
        utility_caption=_subscripts(words.utility_caption(latent)),
        dimensions=dimensions,
        dimension_caption=dimension_caption,
        places=places,
        hidden=hidden,
    )


def latent_cuts_section(rows: Sequence[Row]) -> LatentCuts | None:
    """Return the section on the last hidden layer at each cut, or None if it was not measured."""
    found = trajectory(rows, "latent")
    if not found:
        return None
    dimensions, caption = _dimensions(found[max(found)])
    return LatentCuts(
        cuts=words.latent_cuts(rows),
        caption=words.cut_caption(rows),
        dimensions=dimensions,
        dimension_caption=caption,
    )


def _subscripts(text: str) -> Markup:
    """Return text with the subscripts of Σ_a, Σ_w, Σ_b and σ_b, σ_w typeset."""
    return Markup(re.sub("([Σσ])_([abw])", r"\1<sub>\2</sub>", str(escape(text))))


def _dimensions(traced: Row | None) -> tuple[Drawing | None, str]:
    """Return accuracy against dimensions kept and its caption, if it was measured."""
    if not traced or "accuracy" not in traced:
        return None, ""
    figure = draw(
        "latent-dimensions",
        dimension_figure(traced),
        "validation accuracy against latent dimensions kept",
        heading="Accuracy with the first dimensions only",
    )
    return figure, words.dimension_caption(traced)
