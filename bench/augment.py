"""Two SimCLR views are about 3 times as fast as kornia's on a CPU, both eager or both compiled.

512 uint8 images of 32×32, both views of each: crop, flip, color jitter at strength 0.5, grayscale, blur, normalize.
First each of our operations is compared with torchvision's at the same parameters. kornia is batched as ours is, and
compiled if ours is; torchvision and lightly transform image by image, as in the data loaders of their users. The peers
draw their own random numbers, and kornia draws one order of the color operations per batch. Therefore views are
compared by operation.

    python bench/augment.py [--device cuda]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torchvision.transforms.v2 as T
from harness import Report, arguments, duration, paired_ratio, take_turns, timed
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from mdssl.config.trial import Recipe
from mdssl.device import send
from mdssl.pretrain import augment as ours

COUNT, SIZE = 512, 32
RECIPE = Recipe()


def two_views(images: torch.Tensor, *, compiled: bool) -> list[torch.Tensor]:
    """Two views as in a training step, including the random numbers."""
    uniform = ours.draw(len(images), seed=0, step=0, domain=0)
    views = []
    # One of the 24 orders of the color operations, so that all rounds have the same order.
    for numbers in uniform:
        parameters = ours.Views.of(send(numbers, images.device), SIZE, RECIPE)
        views.append(ours.augment(images, parameters, np.arange(4), compiled=compiled))
    return views


def kornia_views(images: torch.Tensor, transform: torch.nn.Module) -> list[torch.Tensor]:
    x = images.permute(0, 3, 1, 2).float() / 255
    return [transform(x) for _ in range(2)]


def kornia_transform() -> torch.nn.Module:
    import kornia.augmentation as K

    return K.AugmentationSequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=(RECIPE.crop_min_area, 1.0), ratio=(3 / 4, 4 / 3)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        K.Normalize(ours.MEAN, ours.STD),
        data_keys=["input"],
    )


def torchvision_transform() -> Callable:
    transform = T.Compose(
        [
            T.RandomResizedCrop(SIZE, scale=(RECIPE.crop_min_area, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([T.GaussianBlur(3, (0.1, 2.0))], p=0.5),
            T.ToImage(),
            T.ToDtype(torch.float32, scale=True),
            T.Normalize(ours.MEAN, ours.STD),
        ]
    )
    return partial(_twice, transform)  # a lambda could not be pickled for the workers of a DataLoader


def _twice(transform: Callable, image: Image.Image) -> list[torch.Tensor]:
    return [transform(image), transform(image)]


def lightly_transform() -> Callable:
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(input_size=SIZE, cj_strength=0.5, min_scale=RECIPE.crop_min_area, gaussian_blur=0.5)


def image_by_image(images: torch.Tensor, transform: Callable) -> list[torch.Tensor]:
    pairs = [transform(Image.fromarray(image)) for image in images.cpu().numpy()]
    return [torch.stack(views).to(images.device) for views in zip(*pairs, strict=True)]


def differences_from_torchvision(images: torch.Tensor) -> dict[str, float]:
    """The largest difference between ours on a batch and torchvision's on each image, by operation."""
    views = ours.Views.of(send(ours.draw(len(images), seed=1, step=0, domain=0)[0], images.device), SIZE, RECIPE)
    x = images.permute(0, 3, 1, 2).float() / 255

    def crop_flip(image: torch.Tensor, i: int) -> torch.Tensor:
        box = [int(getattr(views, name)[i]) for name in ("top", "left", "height", "width")]
        cropped = TF.resized_crop(image, *box, size=[SIZE, SIZE], antialias=True)
        return TF.horizontal_flip(cropped) if views.flip[i] else cropped

    def blur(image: torch.Tensor, i: int) -> torch.Tensor:
        return TF.gaussian_blur(image, [3, 3], [float(views.sigma[i])] * 2) if views.sigma[i] else image

    def normalize(image: torch.Tensor, i: int) -> torch.Tensor:
        return TF.normalize(image, list(ours.MEAN), list(ours.STD))

    cases: dict[str, tuple[torch.Tensor, Callable]] = {
        "crop, resize, flip": (ours.resized_crop_flip(images, views), crop_flip),
        "blur": (ours.gaussian_blur(x, views.sigma), blur),
        "normalize": (ours.normalize(x), normalize),
    }
    for name in ("brightness", "contrast", "saturation", "hue"):
        factors = getattr(views, name)
        theirs = getattr(TF, f"adjust_{name}")
        cases[name] = (
            getattr(ours, f"adjust_{name}")(x, factors),
            lambda image, i, theirs=theirs, factors=factors: theirs(image, float(factors[i])),
        )
    found = {
        name: max(float((got[i] - theirs(image, i)).abs().max()) for i, image in enumerate(x))
        for name, (got, theirs) in cases.items()
    }
    for name, difference in found.items():
        assert difference < 1e-5, f"{name} differs from torchvision's by {difference:.1e}"
    return found


def main() -> None:
    flags = arguments(__doc__).parse_args()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)).to(flags.device)
    report = Report("views/s", peer="kornia AugmentationSequential")

    found = differences_from_torchvision(images[:64])
    rows = [[name, f"{difference:.0e}"] for name, difference in found.items()]
    report.table("Largest difference from torchvision at the same parameters, of values in [0, 1]", ["", ""], rows)

    eager, compiled = two_views(images, compiled=False), None
    seconds_to_compile = timed(partial(two_views, images, compiled=True), flags.device)
    compiled = two_views(images, compiled=True)
    difference = max(float((a - b).abs().max()) for a, b in zip(eager, compiled, strict=True))
    assert difference < 1e-4, f"compiled views differ by {difference:.1e}"

    contenders = {
        "ours, compiled": partial(two_views, images, compiled=True),
        "kornia, compiled": partial(kornia_views, images, torch.compile(kornia_transform().to(flags.device))),
        "ours": partial(two_views, images, compiled=False),
        "kornia": partial(kornia_views, images, kornia_transform().to(flags.device)),
        "torchvision": partial(image_by_image, images, torchvision_transform()),
        "lightly": partial(image_by_image, images, lightly_transform()),
    }
    seconds = take_turns(contenders, rounds=flags.rounds, device=flags.device)
    report.timings(f"Two views of {COUNT} images", seconds, work=2 * COUNT)
    report.note(f"Compiling took {duration(seconds_to_compile)}; compiled views differ by at most {difference:.0e}.")
    eager = paired_ratio(seconds, "kornia", to="ours")
    report.note(f"At equal terms: {eager:.2f} times as fast as kornia where both are eager.")
    name = "two SimCLR views at 32×32, both compiled"
    report.claim_from(name, seconds, "ours, compiled", "kornia, compiled", 2 * COUNT)


if __name__ == "__main__":
    main()
