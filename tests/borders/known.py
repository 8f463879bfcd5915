"""Rows that fail today, with the reason; a row that passes is taken off."""

KNOWN: dict[tuple[str, str], str] = {
    ("prune", "layer_of_no_width"): "what a layer without outputs reads stays whole",
    ("steps", "layer_of_no_width"): "what a layer without outputs reads stays whole",
    ("prune", "experts"): "MACs depend on which tokens the router sends where",
    ("prune", "bilinear_layer"): "NothingToPruneError: nothing can be pruned in Bili",
    ("prune", "hidden_in_list"): "NothingToPruneError: nothing can be pruned in Hidd",
    ("prune", "one_layer"): "NothingToPruneError: nothing can be pruned in Sequ",
}

#: What a call changes in the process today.
KNOWN_CHANGES: tuple[str, ...] = ()
