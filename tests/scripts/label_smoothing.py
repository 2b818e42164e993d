"""An image classifier with label smoothing, one-cycle schedule and gradient clipping."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES, IMAGES = 10, 100


class Classifier(L.LightningModule):
    def __init__(self, lr=0.05, smoothing=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1)
        )
        self.classifier = nn.Linear(8 * 9, CLASSES)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        scores = self.classifier(self.body(images))
        loss = self.criterion(scores, labels)
        self.log_dict({"loss": loss, "accuracy": (scores.argmax(1) == labels).float().mean()})
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


if __name__ == "__main__":
    L.seed_everything(2)
    labels = torch.randint(CLASSES, (IMAGES,))
    images = torch.randn(IMAGES, 1, 8, 8) + labels[:, None, None, None] / CLASSES
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)  # a last batch of 4
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=0.5, logger=False, log_every_n_steps=2)
    trainer.fit(Classifier(), loader)
