"""The state a module trains in, as it stands in the book."""

import pytest
from torch import nn

from prequential.modes import Modes, modes_of


class Attention(nn.Module):
    """Keeps its dropout as a number, as most attention layers do."""

    def __init__(self, dropout):
        super().__init__()
        self.attention_dropout = dropout
        self.drop_last = True


def test_dropout_in_force_is_listed_once():
    """From dropout layers, attention, recurrent layers and plain numbers; ascending."""
    module = nn.Sequential(
        nn.Dropout(0.1), nn.Dropout(0.1), nn.Dropout2d(0.3), nn.MultiheadAttention(4, 2, dropout=0.2), Attention(0.4)
    )
    module.append(nn.LSTM(2, 2, 2, dropout=0.5))
    assert modes_of(module) == Modes(training=True, dropout=(0.1, 0.2, 0.3, 0.4, 0.5), cross_row=())


def test_what_is_off_is_not_in_force():
    """Probability 0, and layers in evaluation mode inside a module that trains."""
    module = nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.1).eval(), Attention(0.0), nn.Linear(2, 2))
    assert modes_of(module) == Modes(training=True, dropout=(), cross_row=())
    assert modes_of(module.eval()).training is False


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2),
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.LazyBatchNorm1d(),
        nn.BatchNorm1d(2, track_running_stats=False).eval(),
        nn.InstanceNorm1d(2, track_running_stats=True),
    ],
)
def test_layers_that_share_statistics_over_rows(layer):
    """Named, with one sentence."""
    modes = modes_of(nn.Sequential(nn.Linear(2, 2), layer))
    assert modes.cross_row == ("1",)
    assert modes.warning.startswith("1 layers share statistics over the rows of a batch (1): an uncoded item informs")


@pytest.mark.parametrize("layer", [nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2), nn.BatchNorm1d(2).eval()])
def test_layers_that_do_not(layer):
    """Each row by itself, or by statistics that are fixed."""
    assert modes_of(nn.Sequential(layer)).warning is None


def test_the_record_is_plain():
    """As it goes into the head of the book."""
    record = modes_of(nn.Sequential(nn.Dropout(0.1), nn.BatchNorm1d(2))).record()
    assert record == {"training": True, "dropout": (0.1,), "cross_row": ("1",)}
