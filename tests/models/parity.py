"""A published implementation's weights in ours: the tensors have the same order."""

from torch import Tensor, nn

from tests.conftest import randomise_norms_


def copy_in_order_(mine: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Give `mine` the tensors of `theirs`, one by one; return both, ready to be compared."""
    randomise_norms_(theirs)
    its: list[Tensor] = list(theirs.state_dict().values())
    state = mine.state_dict()
    assert [tuple(t.shape) for t in state.values()] == [tuple(t.shape) for t in its]
    mine.load_state_dict(dict(zip(state, its, strict=True)))
    return mine.eval(), theirs.eval()
