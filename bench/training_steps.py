"""The training steps that `step.py` compares: ours and the usual recipe.

The usual recipe is a DataLoader whose workers transform image by image with torchvision, torchvision's ResNet,
lightly's NT-Xent and LARS.
"""

from __future__ import annotations

import os

import torch
import torchvision
from augment import torchvision_transform
from optimizer import lightly_lars
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import Mixture
from mdssl.device import multiplies_bf16
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.step import backward_at_once, two_views

SIZE, IMAGES = 32, 4_096
PRESETS = {"quick": ("resnet18", 2, 128), "paper": ("resnet50", 4, 1_024)}
"""Encoder, number of domains, images of each domain in a step."""
STEPS = 10
"""Steps in a turn of a contender: enough to show whether the workers of a DataLoader, which start with it, keep up."""


def config_of(preset: str, *, domains: int | None = None, batch: int | None = None, **changes) -> TrialConfig:
    arch, usual_domains, usual_batch = PRESETS[preset]
    names = tuple(f"domain{number}" for number in range(domains or usual_domains))
    # SimCLR on the union, as in the usual recipe.
    hardware = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"precision": "bf16" if multiplies_bf16(hardware) else "fp32"} | changes
    settings = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0, "learning_rate": 1.0} | changes
    return TrialConfig(arch=arch, domains=names, batch_per_domain=batch or usual_batch, **settings)


def mixture_of(config: TrialConfig, device: str) -> Mixture:
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, SIZE, SIZE, 3)
    images = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in config.domains]
    return Mixture(config.domains, tuple(each.to(device) for each in images), config.batch_per_domain)


class Ours:
    """The step of `mdssl.pretrain.loop.train`; ``mode`` is the mode of torch.compile if the model is compiled."""

    def __init__(self, config: TrialConfig, device: str, *, compiled: bool = False, mode: str | None = None):
        self.config, self.compiled, self.number = config, compiled, 0
        self.mixture = mixture_of(config, device)
        self.model = build_model(config).to(device)
        if compiled:
            self.model.compile(mode=mode)
        self.optimizer = build_optimizer(config, self.model)
        self.counts = [group.batch for group in self.mixture.domains]

    def views(self) -> torch.Tensor:
        shares = [slice(0, count) for count in self.counts]
        return two_views(self.config, self.mixture, self.mixture.domains, self.number, shares, compiled=self.compiled)

    def __call__(self) -> None:
        views = self.views()
        self.optimizer.zero_grad(set_to_none=True)
        backward_at_once(self.config, self.model, views, [self.counts])
        self.optimizer.step()
        self.number += 1

    def turn(self) -> None:
        """Take `STEPS` steps."""
        for _ in range(STEPS):
            self()


class Images(Dataset):
    """The concatenated images of all domains; an item is two views of one image."""

    def __init__(self, config: TrialConfig):
        self.images = torch.cat(mixture_of(config, "cpu").images).numpy()
        self.transform = torchvision_transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(self.transform(Image.fromarray(self.images[index])))


class UsualRecipe:
    def __init__(self, config: TrialConfig, device: str, *, like_ours: bool = False):
        from lightly.loss import NTXentLoss

        self.device = torch.device(device)
        encoder = getattr(torchvision.models, config.arch)()
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.projection_dim))
        self.layout = torch.channels_last if like_ours else torch.contiguous_format
        self.model = encoder.to(device, memory_format=self.layout)
        self.bf16 = like_ours and config.precision == "bf16"
        self.loss = NTXentLoss(config.temperature)
        self.optimizer = lightly_lars(self.model, config)
        images, batch = Images(config), config.batch_per_domain * len(config.domains)
        self.loader = DataLoader(
            images,
            batch_size=batch,
            sampler=RandomSampler(images, num_samples=STEPS * batch),
            num_workers=os.cpu_count(),
            pin_memory=self.device.type == "cuda",
        )

    def step(self, first: torch.Tensor, second: torch.Tensor) -> None:
        first, second = (
            view.to(self.device, non_blocking=True).contiguous(memory_format=self.layout) for view in (first, second)
        )
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            z = self.model(torch.cat([first, second]))
        self.loss(*(z.float() if self.bf16 else z).chunk(2)).backward()
        self.optimizer.step()

    def turn(self) -> None:
        """Take `STEPS` steps. Workers start and end with the turn, so none works while another contender is timed."""
        for views in self.loader:
            self.step(*views)
