"""Training in several processes: run as a script with the names of cases, each trained in a folder of its own.

All processes are forked from one that has imported everything and computed nothing: a world of two starts in a fraction
of a second, on a port of the loopback. What each rank scored is saved beside the book, row by row, in float64 and
without the library: a second route to every sum.
"""

import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from toys import VOCABULARY, Toy, loader

from prequential import CompressionMonitor, Recording
from prequential.integrations.fabric import recording
from prequential.ranks import Several

PATIENCE_S = 120
LENGTH = 12  # rows of some 56 bits, so that they can be told apart
OWN = {"bundle": None, "token_bytes": [2] * VOCABULARY}


def world(size, run, *, folder):
    """Run something on so many ranks, each in a process of its own; their exit codes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "NODE_RANK": 0, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
            _in_child(run, rank, folder)
        children.append(child)
    return _ended(children)


def _ended(children):
    """Exit codes; whoever is still there after some time is killed."""
    codes, deadline = {}, time.monotonic() + PATIENCE_S
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [codes[child] for child in children]


def _in_child(run, rank, folder):
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    output = os.open(f"rank{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.dump_traceback_later(PATIENCE_S - 5)
    torch.set_num_threads(1)
    try:
        run(rank)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Written(Toy):
    """The toy, which writes down what it scores."""

    def __init__(self):
        super().__init__()
        self.scored = []

    def loss(self, batch):
        inputs, targets = batch
        logits = self(inputs)
        log = logits.detach().double() - logits.detach().double().logsumexp(2, keepdim=True)
        nats = -log.gather(2, targets.unsqueeze(2)).sum((1, 2))
        self.scored += zip(map(tuple, torch.cat([inputs, targets[:, -1:]], 1).tolist()), nats.tolist(), strict=True)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def on_train_end(self):
        torch.save(self.scored, f"scored{self.global_rank}.pt")


class Sharded(Written):
    """The toy, its weights sharded over the data-parallel ranks (FSDP2) and its head split over the others."""

    def configure_model(self):
        mesh = self.device_mesh
        parallelize_module(self.head, mesh["tensor_parallel"], ColwiseParallel(output_layouts=Replicate()))
        fully_shard(self.head, mesh=mesh["data_parallel"])
        fully_shard(self.embedding, mesh=mesh["data_parallel"])


def in_order(size, count, batch, **options):
    """The rows in order, spread over the ranks as one process would be fed with them."""

    def data(rank):
        rows = loader(1, count, LENGTH).dataset
        sampler = DistributedSampler(rows, size, rank, shuffle=False) if size > 1 else None
        return DataLoader(rows, batch // size, sampler=sampler, **options)

    return data


def fit(size, *, count=64, batch=8, module=Written, data=None, callbacks=list, own=None, ckpt=None, **options):
    """Train the toy on its rows, ``batch`` of them a step in all."""
    data = data or in_order(size, count, batch)

    def run(rank):
        L.seed_everything(0, verbose=False)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        monitor = CompressionMonitor(**{"ledger": "book", "every_n_steps": 3, **OWN, **(own or {})})
        trainer = L.Trainer(
            **{
                **{"accelerator": "cpu", "devices": size, "max_epochs": 1, "enable_progress_bar": False, **quiet},
                **{"strategy": "ddp" if size > 1 else "auto", "callbacks": [monitor, *callbacks()], **options},
            }
        )
        trainer.fit(module(), data(rank), ckpt_path=ckpt)

    return run


def at(rank, step, what):
    """The toy, on one of whose ranks something happens in a training step."""

    class Struck(Written):
        def training_step(self, batch, batch_idx):
            if self.global_rank in rank and batch_idx == step:
                what()
            return super().training_step(batch, batch_idx)

    return Struck


def _raise():
    raise RuntimeError("out of luck")


class Outputs(Toy):
    """States its sums itself, on one rank alone."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return {"loss": loss, "nats": loss.detach() * 48, "tokens": 48} if self.global_rank else loss


class Unseen(Toy):
    """Makes no loss call on one rank, without which its code length cannot be found."""

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean() if self.global_rank else self.loss(batch)


def late(rank):
    """The toy without a target on one rank in its first micro-batch."""

    class Late(Written):
        def loss(self, batch):
            if self.global_rank == rank and not self.scored:
                self.scored.append(((), 0.0))
                return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten() * 0 - 100, reduction="sum")
            return super().loss(batch)

    return Late


class Leaves(L.Callback):
    """Takes the monitor away from one rank: nobody speaks for it."""

    def setup(self, trainer, module, stage):
        if trainer.global_rank:
            trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, CompressionMonitor)]


class Breaks(L.Callback):
    """Lets the instrument fail on one rank, and the training go on."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 4:
            monitor = next(one for one in trainer.callbacks if isinstance(one, CompressionMonitor))
            monitor.recorder._watch.observe = lambda *ignored: 1 / 0


class Keeps:
    """A loader that keeps its place: the share of a rank."""

    def __init__(self, size, rank, count=64, batch=8):
        self.batches, self.next = list(in_order(size, count, batch)(rank)), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def saver():
    return [ModelCheckpoint(dirpath="ckpt", filename="{step}", save_top_k=-1, every_n_train_steps=4)]


def resumed(before, after):
    """Stop after six steps, and go on from the fourth with another number of ranks."""

    def saved(size, module=Written, **options):
        return fit(
            size,
            module=module,
            data=lambda rank: Keeps(size, rank),
            callbacks=saver,
            enable_checkpointing=True,
            **options,
        )

    return [(before, saved(before, at(range(4), 6, _raise))), (after, saved(after, ckpt="ckpt/step=4.ckpt"))]


def loop(batches, *, uneven=0, **options):
    """A loop written by hand with torch's own data-parallel module, on every rank; some may have fewer batches."""

    def run(rank):
        torch.manual_seed(0)
        size = int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo")
        toy = Written()
        module = DistributedDataParallel(toy) if size > 1 else toy
        optimizer = toy.configure_optimizers()
        data = list(in_order(size, batches * 8, 8)(rank))
        data = data[: len(data) - uneven * rank]
        with Recording("book", **OWN, every_n_steps=3, **options) as run, Join([module], enable=size > 1):
            for batch in data:
                with run.batch(batch):
                    logits = module(batch[0])
                    loss = F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())
                toy.loss(batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step()
        torch.save(toy.scored, f"scored{rank}.pt")
        dist.destroy_process_group()

    return run


def copies(rank):
    """Four processes, of which each two hold the same tokens."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    toy = Written()
    with Recording("book", **OWN, data_parallel=(rank // 2, 2)) as run:
        for batch in in_order(2, 64, 8)(rank // 2):
            with run.batch(batch):
                toy.loss(batch)
            run.step()
    if rank % 2 == 0:
        torch.save(toy.scored, f"scored{rank}.pt")
    dist.destroy_process_group()


def on_fabric(rank):
    """A loop on Fabric, with the sampler that Fabric puts in."""
    fabric = L.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    L.seed_everything(0, verbose=False)
    toy = Written()
    module, optimizer = fabric.setup(toy, toy.configure_optimizers())
    with recording(fabric, "book", **OWN) as run:
        for batch in fabric.setup_dataloaders(loader(4, 64, LENGTH)):
            with run.batch(batch):
                loss = F.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten())
            toy.loss(batch)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            run.step()
    torch.save(toy.scored, f"scored{rank}.pt")


def sharded(rank):
    """FSDP2 in a loop by hand: weights are sharded over two ranks."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    toy = Written()
    for part in (toy.embedding, toy.head, toy):
        fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
    optimizer = toy.configure_optimizers()
    with Recording("book", **OWN) as run:
        for batch in in_order(2, 64, 8)(rank):
            with run.batch(batch):
                loss = toy.loss(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step()
    torch.save(toy.scored, f"scored{rank}.pt")
    dist.destroy_process_group()


def hugging_face(rank):
    """The trainer of transformers, whose loader fills the last batches up."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from prequential import CompressionCallback

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH + 1, "n_embd": 8, "n_layer": 1, "n_head": 1}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 3}
    tokens = torch.cat([loader(1, 63, LENGTH).dataset.tensors[0], loader(1, 63, LENGTH).dataset.tensors[1][:, -1:]], 1)
    Trainer(
        model=GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)),
        args=TrainingArguments("out", per_device_train_batch_size=4, num_train_epochs=1, **quiet),
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in tokens],
        callbacks=[CompressionCallback(ledger="book", **OWN)],
    ).train()


def short(run):
    """The same with waits of a second."""

    def hurried(rank):
        Several.timeout_s = Several.start_s = Several.grace_s = 1.0
        run(rank)

    return hurried


REPLAY = {"repeats": "replay"}
CASES = {
    "one": [(1, fit(1))],
    "two": [(2, fit(2))],
    "four": [(4, fit(4))],
    "one_replay": [(1, fit(1, own=REPLAY, max_epochs=2))],
    "two_replay": [(2, fit(2, own=REPLAY, max_epochs=2))],
    "one_sources": [(1, fit(1, own={"source": lambda batch: batch[0][:, 0] % 2}))],
    "two_sources": [(2, fit(2, own={"source": lambda batch: batch[0][:, 0] % 2}))],
    "one_evaluated": [(1, fit(1, own={"rescore": "eval"}))],
    "two_evaluated": [(2, fit(2, own={"rescore": "eval"}))],
    "uneven": [(4, fit(4, count=30))],
    "shuffled": [(2, fit(2, data=lambda rank: loader(4, 63, LENGTH)))],
    "dies": [(2, short(fit(2, module=at([1], 5, lambda: os._exit(3)))))],
    "raises": [(2, fit(2, module=at([1], 5, _raise)))],
    "all_raise": [(2, fit(2, module=at([0, 1], 5, _raise)))],
    "other_route": [(2, fit(2, module=Outputs))],
    "unseen": [(2, fit(2, module=Unseen))],
    "late": [(2, fit(2, module=late(1)))],
    "late_first": [(2, fit(2, module=late(0)))],
    "silent": [(2, short(fit(2, callbacks=lambda: [Leaves()])))],
    "fails": [(2, fit(2, callbacks=lambda: [Breaks(1)]))],
    "first_fails": [(2, fit(2, callbacks=lambda: [Breaks(0)]))],
    "two_to_two": resumed(2, 2),
    "two_to_one": resumed(2, 1),
    "loop": [(2, loop(8))],
    "join": [(2, loop(8, uneven=1))],
    "copies": [(4, copies)],
    "fabric": [(2, on_fabric)],
    "sharded": [(2, sharded)],
    "hugging_face": [(2, hugging_face)],
    "model_parallel": [
        (
            4,
            fit(
                4, data=lambda rank: in_order(2, 64, 8)(rank // 2), module=Sharded, strategy=ModelParallelStrategy(2, 2)
            ),
        )
    ],
}


def main(names):
    warnings.simplefilter("ignore")
    for name in names:
        for size, run in CASES[name]:
            began = time.monotonic()
            codes = world(size, run, folder=Path(name))
            print(name, *codes, f"{time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
