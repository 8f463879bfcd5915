"""Class information of the last hidden layer, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from prunus.core import Row, trajectory
from prunus.reports.latent.figures import chosen_at, covariance_end
from prunus.reports.numbers import counted, grouped, measure, percent

__all__ = [
    "LatentCut",
    "LatentPlace",
    "covariance_caption",
    "covariance_note",
    "cut_caption",
    "dimension_caption",
    "latent_cuts",
    "latent_places",
    "latent_sentence",
    "utility_caption",
]

#: Ranks that the page lists; the file has the rest.
LISTED = 200
#: How dimensions were chosen, as in `LatentConfig.select`.
CHOSEN = {
    "sensitivity": "by sensitivity",
    "otsu": "by Otsu’s threshold",
    "all": "as all non-constant ones",
}


@dataclass(frozen=True, kw_only=True)
class LatentPlace:
    """The k-th dimension and discriminant, and the accuracy with k dimensions."""

    place: int
    dimension: str
    utility: str
    discriminant: str
    running: str
    lda: str
    pca: str


@dataclass(frozen=True, kw_only=True)
class LatentCut:
    """The last hidden layer at one cut, and the dimensions that were traced."""

    iteration: int
    kept: str
    idle: str
    discriminants: str
    first_two: str
    accuracy: str
    images: str


def latent_sentence(latent: Row) -> str:
    """Return the last hidden layer in a sentence: dimensions, discriminants, choice.

    Example:
        >>> row = {"head": "fc2", "dimensions": 4, "constant": 1, "copies": 0}
        >>> row |= {"discriminants": [6.0, 3.0, 1.0], "traced": {"by": "otsu", "kept": 2}}
        >>> latent_sentence(row).replace("\u00a0", " ")
        'fc2 reads 4 dimensions, 1 constant; discriminants sum to 10.0, first two 90 %; 2 kept by \
Otsu’s threshold.'
    """
    text = f"{latent['head']} reads {counted(latent['dimensions'], 'dimension')}"
    if latent["constant"]:
        text += f", {grouped(latent['constant'])} constant"
    if latent["copies"]:
        text += f", {_copies(latent['copies'])}"
    found = latent["discriminants"]
    if found:
        text += f"; discriminants sum to {measure(sum(found))}"
        text += f", first two {_first_two(found)}" if len(found) > 2 and sum(found) > 0 else ""
    if latent["traced"]:
        traced = latent["traced"]
        text += f"; {grouped(traced['kept'])} kept {CHOSEN.get(traced['by'], 'as set')}"
    return text + "."


def covariance_note(latent: Row, name: str) -> str:
    """Return the range of the colour scale: `0 to 2.87`, or `±0.31` if it is signed."""
    end = measure(covariance_end(latent, name))
    return f"0 to {end}" if latent["block"] > 1 else f"±{end}"


def covariance_caption(latent: Row) -> str:
    """Return what a cell is, and how far from diagonal the matrix is."""
    text = (
        f"Covariances of the dimensions that {latent['head']} reads, in order of decreasing "
        "utility: the total covariance Σ_a = Σ_w + Σ_b, that within classes Σ_w, and that of the "
        "class means Σ_b, in squared units of the activations. Each has its own colour scale, "
        "whose range is shown above it."
    )
    block, drawn = latent["block"], latent["drawn"]
    if block > 1:
        text += (
            f" With {grouped(drawn)} dimensions, a cell is the mean magnitude of a block of "
            f"{block} × {block} entries: the diagonal appears weaker than it is, and signs are not "
            "shown."
        )
    total, between = (latent["covariances"][name] for name in ("total", "between"))
    if total["diagonal"] > 0:
        share = between["diagonal"] / total["diagonal"]
        text += f" {percent(share, 0)} of the variance is between classes."
    if total["diagonal"] > 0 and drawn > 1:
        text += (
            " Off the diagonal of Σ_a the mean magnitude is "
            f"{percent(total['beside'] / total['diagonal'], 1)} of that on it; at 0 % the "
            "discriminants are the dimensions themselves."
        )
    left = latent["dimensions"] - drawn
    if left:
        many = ("constant or a copy, is", "constant or copies, are")[left > 1]
        text += f" {counted(left, 'dimension')}, {many} left out."
    return text


def utility_caption(latent: Row) -> str:
    """Return what utility and discriminants are, and what the colours mean."""
    text = (
        "Utility v = σ_b²/σ_w² is Fisher’s ratio of one dimension, the variance between classes "
        "over the variance within; it is 0 for a constant dimension or a copy of another. The "
        "discriminants are those of all dimensions together, at most "
        f"{grouped(max(latent['classes'] - 1, 0))} for {grouped(latent['classes'])} classes: "
        "eigenvalues of Σ_b relative to Σ_w with a small ridge, on standardised dimensions. The "
        "line is their running sum as a share of the total."
    )
    if latent["traced"]:
        traced = latent["traced"]
        text += (
            f" Blue dimensions were kept {CHOSEN.get(traced['by'], 'as set')}, "
            f"{grouped(traced['kept'])} of {grouped(latent['dimensions'])}, and traced back over "
            f"{counted(traced['traced_images'], 'image')}."
        )
    return text


def dimension_caption(traced: Row) -> str:
    """Return the accuracy with the chosen number of dimensions, and with as many components."""
    counts, curves, at = traced["counts"], traced["accuracy"], chosen_at(traced)
    return (
        "Validation accuracy if the head reads only the first k dimensions by utility (LDA), or "
        "only the first k principal components (PCA), which do not use the labels; nothing is "
        f"retrained. All {counted(counts[-1], 'dimension')} reach "
        f"{percent(curves['lda'][-1])}; the {grouped(traced['kept'])} chosen reach "
        f"{percent(curves['lda'][at])}, the same number of components "
        f"{percent(curves['pca'][at])}."
    )


def latent_places(latent: Row) -> tuple[list[LatentPlace], int]:
    """Return one row per rank, as far as the page lists them, and the number of hidden ones."""
    found = latent["discriminants"]
    running = list(accumulate(found))
    traced = latent["traced"] or {}
    curves: dict[str, dict[int, float]] = {
        name: dict(zip(traced["counts"], accuracies, strict=True))
        for name, accuracies in traced.get("accuracy", {}).items()
    }

    def accuracy(name: str, place: int) -> str:
        share = curves.get(name, {}).get(place)
        return "–" if share is None else percent(share)

    places = list(zip(latent["order"], latent["values"], strict=True))
    rows = [
        LatentPlace(
            place=at,
            dimension=str(dimension),
            utility=measure(value),
            discriminant=measure(found[at - 1]) if at <= len(found) else "–",
            running=measure(running[at - 1]) if at <= len(found) else "–",
            lda=accuracy("lda", at),
            pca=accuracy("pca", at),
        )
        for at, (dimension, value) in enumerate(places[:LISTED], start=1)
    ]
    return rows, len(places) - len(rows)


def latent_cuts(rows: Sequence[Row]) -> list[LatentCut]:
    """Return the last hidden layer at each cut of a run, oldest first."""
    return [_cut(at, row) for at, row in trajectory(rows, "latent").items()]


def cut_caption(rows: Sequence[Row]) -> str:
    """Return what the table shows, and how the sum of the discriminants changed."""
    found = list(trajectory(rows, "latent").values())
    first, newest = found[0], found[-1]
    text = (
        f"Before each cut the dimensions that {newest['head']} reads are ranked by Fisher’s ratio "
        "for the class labels, and those kept are traced back to every channel. Discriminants are "
        "eigenvalues of the covariance between classes relative to that within."
    )
    if len(found) > 1:
        before, after = sum(first["discriminants"]), sum(newest["discriminants"])
        text += f" Their sum changed from {measure(before)} to {measure(after)}."
    return text


def _cut(at: int, row: Row) -> LatentCut:
    found, idle = row["discriminants"], row["constant"] + row["copies"]
    accuracy = "–"
    if "accuracy" in row:
        curve = row["accuracy"]["lda"]
        accuracy = f"{percent(curve[chosen_at(row)])} of {percent(curve[-1])}"
    return LatentCut(
        iteration=at,
        kept=f"{grouped(row['kept'])} of {grouped(row['width'])}",
        idle=grouped(idle),
        discriminants=measure(sum(found)) if found else "–",
        first_two=_first_two(found) if len(found) > 2 and sum(found) > 0 else "–",
        accuracy=accuracy,
        images=grouped(row["traced_images"]),
    )


def _first_two(found: Sequence[float]) -> str:
    return percent(sum(found[:2]) / sum(found), 0)


def _copies(count: int) -> str:
    return f"{grouped(count)} {'copy' if count == 1 else 'copies'}"
