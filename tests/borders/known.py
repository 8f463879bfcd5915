"""Rows that fail today, with the reason; a row that passes is taken off."""

KNOWN: dict[tuple[str, str], str] = {
    ("batches", "images of int64"): "AssertionError: prune refuses in other words: Sequ",
    ("batches", "images without storage"): "NotImplementedError: Cannot copy out of meta tenso",
    ("batches", "maps with −100"): "DataError: labels hold -100 for positions that do ",
    ("batches", "one input is missing"): "AssertionError: collect refuses in other words: Si",
    ("batches", "sparse images"): "NotImplementedError: Could not run 'aten::as_strid",
    ("batches", "tokens with −100"): "DataError: labels hold -100 for positions that do ",
    ("prune", "bilinear_layer"): "NothingToPruneError: nothing can be pruned in Bili",
    ("prune", "hidden_in_list"): "NothingToPruneError: nothing can be pruned in Hidd",
    ("prune", "layer_of_no_width"): "IndexError: index 0 is out of bounds for dimension",
    ("prune", "old_spectral_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "old_weight_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "one_layer"): "NothingToPruneError: nothing can be pruned in Sequ",
    ("prune", "orthogonal"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "own_parametrisation"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "spectral_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "structured_masks"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "unstructured_masks"): "AttributeError: `weight` is not an nn.Parameter",
    ("prune", "weight_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "bidirectional_lstm"): "AssertionError: stays whole: {'first': \"'mkldnn_rn",
    ("steps", "convolutions_with_children"): "AssertionError: stays whole: {'0': 'an operation m",
    ("steps", "layer_of_no_width"): "IndexError: index 0 is out of bounds for dimension",
    ("steps", "lstm"): "AssertionError: stays whole: {'first': \"'mkldnn_rn",
    ("steps", "old_spectral_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "old_weight_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "orthogonal"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "own_parametrisation"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "spectral_norm"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "structured_masks"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "unstructured_masks"): "AttributeError: `weight` is not an nn.Parameter",
    ("steps", "weight_norm"): "AttributeError: `weight` is not an nn.Parameter",
}

#: What a call changes in the process today.
KNOWN_CHANGES: tuple[str, ...] = ()
