"""A tiny GPT-2 from a config: the labels are the inputs, the model shifts them and returns its loss."""

import argparse

import lightning as L
import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, LENGTH = 60, 12


class Finetuner(L.LightningModule):
    def __init__(self, count_items):
        super().__init__()
        config = GPT2Config(
            vocab_size=VOCAB, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        self.model = GPT2LMHeadModel(config)
        self.count_items = count_items

    def training_step(self, batch, batch_idx):
        extra = {"num_items_in_batch": batch["labels"][:, 1:].ne(-100).sum()} if self.count_items else {}
        outputs = self.model(**batch, **extra)
        self.log("loss", outputs.loss, prog_bar=True)
        return outputs.loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def collate(rows):
    """Pad to the longest row, as `DataCollatorForLanguageModeling` does."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    lengths = torch.tensor([len(row) for row in rows])
    attention_mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": attention_mask, "labels": ids.masked_fill(attention_mask == 0, -100)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count-items", action="store_true")
    parser.add_argument("--shortest", type=int, default=LENGTH)
    arguments = parser.parse_args()
    L.seed_everything(7)
    lengths = torch.randint(arguments.shortest, LENGTH + 1, (24,)).tolist()
    rows = [torch.randint(1, VOCAB, (length,)) for length in lengths]
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, gradient_clip_val=1)
    trainer.fit(Finetuner(arguments.count_items), DataLoader(rows, batch_size=4, collate_fn=collate))
