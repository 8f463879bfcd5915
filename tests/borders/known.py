"""Rows that fail today, with the reason; a row that passes is taken off."""

KNOWN: dict[tuple[str, str], str] = {
    ("prune", "bilinear_layer"): "NothingToPruneError: nothing can be pruned in Bili",
    ("prune", "hidden_in_list"): "NothingToPruneError: nothing can be pruned in Hidd",
    ("prune", "one_layer"): "NothingToPruneError: nothing can be pruned in Sequ",
}

#: What a call changes in the process today.
KNOWN_CHANGES: tuple[str, ...] = ()
