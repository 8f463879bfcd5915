"""What the last hidden layer tells of the classes, in sentences and tables."""

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

#: Places that the page lists; the file has the rest.
LISTED = 200
#: How dimensions were chosen, as in `LatentConfig.select`.
CHOSEN = {
    "sensitivity": "by sensitivity",
    "otsu": "by Otsu’s threshold",
    "all": "as all that carry anything",
}


@dataclass(frozen=True, kw_only=True)
class LatentPlace:
    """The k-th dimension and discriminant, and the accuracy that k dimensions keep."""

    place: int
    dimension: str
    utility: str
    discriminant: str
    running: str
    lda: str
    pca: str


@dataclass(frozen=True, kw_only=True)
class LatentCut:
    """What one cut found in the last hidden layer, and what of it was traced."""

    iteration: int
    kept: str
    idle: str
    discriminants: str
    first_two: str
    accuracy: str
    images: str


def latent_sentence(latent: Row) -> str:
    """Return the last hidden layer in a sentence: dimensions, discriminants, what was chosen.

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
        text += f"; {grouped(traced['kept'])} kept {CHOSEN.get(traced['by'], 'as asked')}"
    return text + "."


def covariance_note(latent: Row, name: str) -> str:
    """Return where the colours of a covariance end: `0 to 2.87`, or `±0.31` where it has signs."""
    end = measure(covariance_end(latent, name))
    return f"0 to {end}" if latent["block"] > 1 else f"±{end}"


def covariance_caption(latent: Row) -> str:
    """Say what a cell is, and how far from diagonal the whole is."""
    text = (
        f"How the dimensions that {latent['head']} reads vary together, in the order of falling "
        "utility: the total covariance Σ_a = Σ_w + Σ_b, that within classes Σ_w, and that of the "
        "class means Σ_b, in squared units of the activations. Each has a colour scale of its own, "
        "whose end is written over it."
    )
    block, drawn = latent["block"], latent["drawn"]
    if block > 1:
        text += (
            f" Of {grouped(drawn)} dimensions a cell is the mean magnitude over a block of "
            f"{block} × {block} entries: the diagonal looks paler than it is, and signs are not "
            "shown."
        )
    total, between = (latent["covariances"][name] for name in ("total", "between"))
    if total["diagonal"] > 0:
        share = between["diagonal"] / total["diagonal"]
        text += f" {percent(share, 0)} of the variance lies between classes."
    if total["diagonal"] > 0 and drawn > 1:
        text += (
            " Off the diagonal of Σ_a the mean magnitude is "
            f"{percent(total['beside'] / total['diagonal'], 1)} of that on it; at 0 the "
            "discriminants are the dimensions themselves."
        )
    left = latent["dimensions"] - drawn
    if left:
        many = ("constant or a copy, is", "constant or copies, are")[left > 1]
        text += f" {counted(left, 'dimension')}, {many} left out."
    return text


def utility_caption(latent: Row) -> str:
    """Say what utility and discriminants are, and what the colours mean."""
    text = (
        "Utility v = σ_b²/σ_w² is Fisher’s ratio of one dimension, variance between classes over "
        "variance within; a constant dimension or a copy of another has none. The discriminants "
        f"are those of all dimensions together, at most {grouped(max(latent['classes'] - 1, 0))} "
        f"for {grouped(latent['classes'])} classes: eigenvalues of Σ_b against Σ_w with a little "
        "ridge, on standardised dimensions. The line is their running sum over the whole."
    )
    if latent["traced"]:
        traced = latent["traced"]
        text += (
            f" Blue dimensions were kept {CHOSEN.get(traced['by'], 'as asked')}, "
            f"{grouped(traced['kept'])} of {grouped(latent['dimensions'])}, and traced back over "
            f"{counted(traced['traced_images'], 'image')}."
        )
    return text


def dimension_caption(traced: Row) -> str:
    """Say what is kept of the accuracy with so many dimensions, and what components would keep."""
    counts, curves, at = traced["counts"], traced["accuracy"], chosen_at(traced)
    return (
        "Validation accuracy where the head sees only the first k dimensions by utility (LDA), or "
        "only as many principal components (PCA), which do not know the labels; nothing is "
        f"trained again. All {counted(counts[-1], 'dimension')} reach "
        f"{percent(curves['lda'][-1])}; the {grouped(traced['kept'])} that were chosen "
        f"{percent(curves['lda'][at])}, as many components {percent(curves['pca'][at])}."
    )


def latent_places(latent: Row) -> tuple[list[LatentPlace], int]:
    """Return a row a place, as far as the page lists them, and how many it leaves out."""
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
    """Return what each cut of a run found in the last hidden layer, oldest first."""
    return [_cut(at, row) for at, row in trajectory(rows, "latent").items()]


def cut_caption(rows: Sequence[Row]) -> str:
    """Say what is in the table, and how the sum of the discriminants went."""
    found = list(trajectory(rows, "latent").values())
    first, newest = found[0], found[-1]
    text = (
        f"Before each cut the dimensions that {newest['head']} reads are ranked by Fisher’s ratio "
        "of the class labels, and those kept are traced back to every channel. Discriminants are "
        "eigenvalues of the covariance between classes against that within."
    )
    if len(found) > 1:
        before, after = sum(first["discriminants"]), sum(newest["discriminants"])
        text += f" Their sum went from {measure(before)} to {measure(after)}."
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
