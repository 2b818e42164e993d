"""The order in which tokens become known: worked examples, and laws that any batch obeys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prequential.bitstream.plan import make_plan


def planned(targets, inputs, known=(), size=40):
    """The plan of a batch as lists, and what is known after it."""
    before = np.zeros(size, dtype=np.bool_)
    before[list(known)] = True
    targets, inputs = np.array(targets), np.array(inputs)
    plan = make_plan(targets, inputs, before)
    flat = targets.reshape(-1)
    passes = [flat[part].tolist() for part in np.split(plan.order, plan.ends[:-1])] if len(plan.ends) else []
    return plan.uniform.tolist(), passes, before


def test_rows_are_coded_column_by_column_after_their_first_tokens():
    """The first of each row is predicted by nothing."""
    uniform, passes, known = planned([[1, 2, 3], [11, 12, 13]], [[0, 1, 2], [10, 11, 12]])
    assert uniform == [0, 10]
    assert passes == [[1, 11], [2, 12], [3, 13]]
    assert np.flatnonzero(known).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_a_row_that_goes_on_from_another_waits_for_it():
    """Its first token is the last target of the row before."""
    uniform, passes, _ = planned([[1, 2], [3, 4], [5, 6]], [[0, 1], [2, 3], [4, 5]])
    assert uniform == [0]
    assert passes == [[1], [2], [3], [4], [5], [6]]


def test_what_came_before_is_not_sent_again():
    """A second epoch, padding by a sampler, the part that two rows share."""
    assert planned([[1, 2]], [[0, 1]], known=[0, 1, 2])[:2] == ([], [])
    assert planned([[1, 2], [1, 2]], [[0, 1], [0, 1]])[:2] == ([0], [[1], [2]])
    assert planned([[1, 2, 3], [3, 4, 5]], [[0, 1, 2], [2, 3, 4]])[:2] == ([0], [[1], [2], [3], [4], [5]])


def test_rows_that_wait_for_each_other():
    """The first one's need is sent, and the others follow."""
    uniform, passes, _ = planned([[1], [2]], [[2], [1]])
    assert (uniform, passes) == ([2], [[1]])


def test_what_is_no_token_is_not_sent():
    """Padding, masks; a batch of nothing else; a batch without targets."""
    assert planned([[1, -1], [-1, -1]], [[-1, 1], [-1, -1]])[:2] == ([], [[1]])
    assert planned([[-1]], [[-1]])[:2] == ([], [])
    assert planned(np.empty((0, 0), dtype=int), [[3, -1, 4]])[:2] == ([3, 4], [])


positions = st.integers(-1, 14)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sets(st.integers(0, 14)))
def test_laws(data, rows, columns, width, before):
    """All of a batch is known afterwards, each position is sent once, nothing is coded before what its row needs."""
    targets = np.array(data.draw(st.lists(positions, min_size=rows * columns, max_size=rows * columns)))
    inputs = np.array(data.draw(st.lists(positions, min_size=rows * width, max_size=rows * width)))
    targets, inputs = targets.reshape(rows, columns), inputs.reshape(rows, width)
    known = np.zeros(15, dtype=np.bool_)
    known[list(before)] = True
    start = known.copy()
    plan = make_plan(targets, inputs, known)
    sent = [*plan.uniform, *targets.reshape(-1)[plan.order]]
    assert sorted(sent) == sorted(({*targets.reshape(-1), *inputs.reshape(-1)} - {-1}) - before)
    assert (known == start | np.isin(np.arange(15), sent)).all()
    now = start.copy()
    now[plan.uniform] = True
    begin = 0
    for end in plan.ends:
        places = plan.order[begin:end]
        for place in places:
            own = set(targets[place // columns])
            assert all(now[need] or need in own for need in inputs[place // columns] if need >= 0)
        assert len({place % columns for place in places}) == 1
        now[targets.reshape(-1)[places]] = True
        begin = end


def test_a_row_of_a_thousand_is_planned_as_one():
    """No loop over positions: so many passes, each of all rows."""
    targets = np.arange(1, 4 * 1000 + 1).reshape(4, 1000)
    _, passes, _ = planned(targets, targets - 1, known=[0, 1000, 2000, 3000], size=5000)
    assert len(passes) == 1000
    assert all(len(columns) == 4 for columns in passes[:-1])
    assert sum(map(len, passes)) == pytest.approx(4000 - 3)
