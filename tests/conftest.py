"""What all tests share: nothing reaches a network, nothing is left lying about."""

import logging
import os

import pytest

# Before torch is loaded, here and in what a test starts: models this small gain nothing from more threads,
# and test processes side by side would wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.pop("PREQUENTIAL", None)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    """Run every test in a directory of its own, where its books and logs may lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def trainer_of(tmp_path):
    """A function that makes a quiet one-epoch trainer on the CPU."""
    import lightning as L

    def make(*callbacks, **options):
        quiet = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "default_root_dir": tmp_path,
        }
        return L.Trainer(callbacks=list(callbacks), **{**quiet, **options})

    return make
