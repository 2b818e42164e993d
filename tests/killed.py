"""A training process that is killed again and again: run as a script, with a seed and the number of kills.

Children are forked from one process that has imported everything and computed nothing, so that a start costs a tenth of
a second. Each of them resumes from the last checkpoint that can be read. They are killed (SIGKILL) at random moments:
when they have come to a random batch, and a few milliseconds later, in the middle of whatever they do then.
"""

import glob
import mmap
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from toys import Toy, loader

from prequential import CompressionMonitor

BATCHES, LENGTH = 100, 12


class Keeps:
    """A loader that keeps its place."""

    def __init__(self):
        tokens = loader(count=2 * BATCHES, length=LENGTH).dataset.tensors
        self.batches, self.next = list(zip(*(part.split(2) for part in tokens), strict=True)), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        while self.next < len(self.batches):
            self.next += 1
            yield list(self.batches[self.next - 1])

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def train(ledger, every, reached=None, *, doomed=False):
    """Train to the end, from the last checkpoint if there is one; who is doomed waits for the kill before it."""

    class Tells(Toy):
        def training_step(self, batch, batch_idx):
            if reached is not None:
                reached[:4] = batch_idx.to_bytes(4, "little")
            if doomed and batch_idx == BATCHES - 1:
                time.sleep(600)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    torch.manual_seed(0)
    saver = ModelCheckpoint(dirpath="ckpt", filename="{step}", save_top_k=-1, every_n_train_steps=every)
    quiet = {"logger": False, "enable_model_summary": False, "enable_progress_bar": False}
    monitor = CompressionMonitor(ledger=ledger, bundle=None, every_n_steps=7)
    callbacks = [monitor] if reached is None else [monitor, saver]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=callbacks, enable_checkpointing=reached is not None, **quiet
    )
    trainer.fit(Tells(), Keeps(), ckpt_path=last_checkpoint() if reached is not None else None, weights_only=True)


def last_checkpoint():
    """The newest checkpoint that is whole."""
    paths = sorted(glob.glob("ckpt/*.ckpt"), key=lambda path: int(path.split("=")[1].split(".")[0].split("-")[0]))
    for path in reversed(paths):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            continue
        return path
    return None


def forked(run):
    """Run something in a child."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        run()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main(seed, kills):
    """Leave the book ``killed`` of the run that was killed, and ``unbroken`` of the same run in one go."""
    chance = random.Random(seed)
    warnings.simplefilter("ignore")
    reached = mmap.mmap(-1, 4)
    moments = sorted(chance.randrange(BATCHES) for _ in range(kills))
    for number, moment in enumerate(moments):
        reached[:4] = bytes(4)
        child = forked(lambda number=number: train("killed", 1 + number % 3, reached, doomed=True))
        if number % 5 == 4:  # while it starts
            moment = 0
        while int.from_bytes(reached[:4], "little") < moment and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.1 if number % 5 == 4 else 0.006))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed at", int.from_bytes(reached[:4], "little"), flush=True)
    for run in (lambda: train("killed", 2, reached), lambda: train("unbroken", 1)):
        _, status = os.waitpid(forked(run), 0)
        assert status == 0, status


if __name__ == "__main__":
    Path("ckpt").mkdir(exist_ok=True)
    main(int(sys.argv[1]), int(sys.argv[2]))
