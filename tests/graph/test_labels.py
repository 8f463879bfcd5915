"""Labels: the partition against one kept by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.graph.labels import FIXED, Labels, compress, varying

COUNT = 12
labels_of = st.integers(1, COUNT)


@given(
    st.lists(st.one_of(st.tuples(labels_of, labels_of), labels_of), max_size=20),
    st.integers(0, 20),
)
def test_classes_are_those_of_a_set_kept_by_hand(
    steps: list[tuple[int, int] | int], asked: int
) -> None:
    labels, classes = Labels(), [{i} for i in range(COUNT + 1)]
    labels.new(COUNT)
    for number, step in enumerate(steps):
        a, b = step if isinstance(step, tuple) else (step, FIXED)
        if isinstance(step, tuple):
            labels.join(torch.tensor([a]), torch.tensor([b]))
        else:
            labels.fix(torch.tensor([a]), f"step {number}")
        if number == asked:
            labels.settled()  # asking in between changes nothing
        one, other = (next(c for c in classes if i in c) for i in (a, b))
        if one is not other:
            classes.remove(other)
            one |= other
    expected = [min(next(c for c in classes if i in c)) for i in range(COUNT + 1)]
    assert labels.settled().tolist() == expected
    why = labels.reasons()
    assert {i for i in range(1, COUNT + 1) if i in why} == {
        i for i in range(1, COUNT + 1) if expected[i] == FIXED
    }


def test_new_labels_stand_by_themselves() -> None:
    labels = Labels()
    one = labels.new(3)
    labels.join(one[:1], one)
    two = labels.new(2)
    assert labels.find(torch.cat([one, two])).tolist() == [1, 1, 1, 4, 5]


def test_the_reason_is_that_of_the_own_class() -> None:
    labels = Labels()
    a, b = labels.new(2), labels.new(2)
    labels.fix(a, "first")
    labels.join(b[:1], b)
    labels.fix(b[1:], "second")
    assert [labels.reasons()[int(i)] for i in (*a, *b)] == ["first", "first", "second", "second"]


def test_compress() -> None:
    array = torch.tensor([[1, 1], [2, 2]])
    assert compress(array).tolist() == [[1], [2]]
    assert varying(compress(array)) == {0}
    assert compress(array, [0]).shape == (2, 2)
