"""Whether a data loader feeds every row once an epoch: then rows that are equal are data that repeats itself.

Anything that is not known to do so may feed a row again: a sampler that pads or draws with replacement, a data set that
lists a part twice, a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)
from torch.utils.data.distributed import DistributedSampler

if TYPE_CHECKING:
    import lightning.pytorch as pl

# Samplers of other packages under a class of torch may do anything; these are known to draw as it does.
_KNOWN = ("torch", "accelerate")


def draws_once(trainer: pl.Trainer) -> bool:
    """Whether each epoch of this fit is known to draw every row of one data set once."""
    whole = trainer.max_epochs == 1 or trainer.limit_train_batches == 1.0
    return loader_draws_once(trainer.train_dataloader, whole=whole)


def loader_draws_once(loader: Any, *, whole: bool = True) -> bool:
    """Whether a loader is known to draw every row once.

    Args:
        loader: The loader.
        whole: Whether each epoch goes through all of it; where it does not, a shuffled one shows other rows each time.
    """
    if not isinstance(loader, DataLoader):
        return False
    batches = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return False
    if isinstance(loader.dataset, IterableDataset) or not _lists_once(loader.dataset):
        return False
    sampler: Any = loader.sampler if batches is None else batches.sampler  # given a batch sampler, the loader's is idle
    if type(sampler) is SequentialSampler:
        return True
    if type(sampler) is DistributedSampler:
        return _padded_rows(sampler) == 0 and (whole or not sampler.shuffle)
    known = isinstance(sampler, RandomSampler) and type(sampler).__module__.split(".")[0] in _KNOWN
    shuffled = known and not sampler.replacement
    return shuffled and whole and bool(sampler.num_samples <= len(sampler.data_source))


def dropped_rows(trainer: pl.Trainer) -> int:
    """How many rows of the data an epoch that came to its end left out, since they filled no batch (``drop_last``)."""
    loader: Any = trainer.train_dataloader
    dropped = loader_drops(loader)
    return dropped if dropped and trainer.num_training_batches == len(loader) else 0


def starts_over(trainer: pl.Trainer) -> bool:
    """Whether some loader of this fit would begin at its start where training is resumed: it keeps no position."""
    loaders: list[Any] = []
    tree_map(loaders.append, trainer.train_dataloader)
    return not all(hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict") for loader in loaders)


def missed_rows(trainer: pl.Trainer, came: int) -> int:
    """How many rows an epoch that came to its end never fed, since it was resumed by a loader that started over.

    Args:
        trainer: The trainer, whose loader draws every row once; else it is not known, and 0.
        came: Rows that came, each counted once.
    """
    loader: Any = trainer.train_dataloader
    if not loader_draws_once(loader) or loader.batch_sampler is None:
        return 0
    sampler = loader.batch_sampler.sampler
    rows = min(len(sampler), int(trainer.num_training_batches) * int(loader.batch_size)) * _ranks(sampler)
    return max(0, rows - came)


def loader_drops(loader: Any) -> int:
    """How many rows each whole epoch of a loader leaves out, as far as it is known to draw every row once.

    Those that all ranks leave out, where the data is spread over several.
    """
    if not loader_draws_once(loader):
        return 0
    batches = loader.batch_sampler
    if batches is None:
        return 0
    own = len(batches.sampler) // int(batches.batch_size) * int(batches.batch_size)
    fed = own if batches.drop_last else len(batches.sampler)
    if type(batches.sampler) is DistributedSampler:
        rows: Any = batches.sampler.dataset
        return len(rows) - fed * _ranks(batches.sampler)
    return len(batches.sampler) - fed


def _ranks(sampler: Any) -> int:
    """Over how many ranks a sampler spreads the rows, each of which gets as many."""
    return int(sampler.num_replicas) if type(sampler) is DistributedSampler else 1


def _padded_rows(sampler: Any) -> int:
    """How many rows a sampler feeds again at the end of an epoch, so that all ranks get as many."""
    return max(0, int(sampler.total_size) - len(sampler.dataset))


def _lists_once(dataset: Any) -> bool:
    """Whether no row stands in a data set twice by the way it is put together; other classes are trusted."""
    if isinstance(dataset, ConcatDataset):
        members = dataset.datasets
        return len({id(member) for member in members}) == len(members) and all(map(_lists_once, members))
    if isinstance(dataset, Subset):
        return len(set(dataset.indices)) == len(dataset.indices) and _lists_once(dataset.dataset)
    return True
