"""Values of features, gathered by the units that own them."""

import numpy as np
import torch

from prunus.criteria.gather import gather


def test_features_a_unit_does_not_own_count_nothing() -> None:
    values = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    blocks = np.array([[2, 0], [1, -1], [-1, -1]])
    expected = torch.tensor([[3.0, 0.5], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(gather(values, blocks), expected)
