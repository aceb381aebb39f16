"""The card of an exported encoder: a README in Markdown that says what its trial and leaderboard rows say, no more."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.data.builtin import BUILTIN
from mdssl.export.formats import FORMATS, Exported, file_name
from mdssl.export.loading import loading_code
from mdssl.export.preparation import Preparation
from mdssl.leaderboard.names import name_of, words_of_score
from mdssl.tables.repeat import probe_command, train_command
from mdssl.terminal import printable

_METHODS = {
    "simclr": "SimCLR on the union of its training domains, taken as one",
    "mdssl": "multi-domain self-supervised learning (MDSSL) with known domain labels",
    "mdssl-clustered": "MDSSL with domains that K-Means finds in the embeddings again and again",
    "mdssl-robust": "MDSSL with domains that K-Means finds, without the images that no cluster is sure of",
    "random": "no training: its weights are the random ones that training would begin with",
    "pretrained": "training elsewhere; mdssl has loaded and scored it, and trained nothing",
}
_PAPER_VIEWS_PER_DOMAIN = 48_000 * 1024 * 2
"""Section 3.1: 48,000 steps of 1024 images of each domain, two views of each."""
_IN_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#!|<>~&$])")


def card(
    config: TrialConfig,
    preparation: Preparation,
    rows: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    *,
    width: int,
    formats: tuple[str, ...],
    programs: Mapping[str, Exported],
) -> str:
    """The whole text, with the YAML front matter that model hubs read.

    Args:
        rows: the trial's leaderboard rows, by column name.
        training: the content of its ``training.json``.
        width: features of an image.
        formats: those that are in the folder, keys of `FORMATS`.
        programs: by format, what was checked against the encoder.
    """
    scored = [row for row in rows if row["status"] == "finished" and row["features"] == "encoder"]
    provenance = dict(rows[0]) if rows else {}
    sections = [
        _front_matter(config),
        _what_it_is(config, preparation, width, training),
        f"## Scores\n\n{_scores(scored)}",
        f"## How to use it\n\n{_use(config, preparation, formats, programs)}",
        f"## How it was trained\n\n{_training(config, training)}",
        f"## Where it comes from\n\n{_provenance(config, provenance, training)}",
        f"## Limits\n\n{_limits(config, preparation, training, scored)}",
        "## Licence\n\nNone is given here: whoever publishes this folder chooses one, and puts it into the first lines "
        "of this file as `license: …`. The images that it was trained on have terms of their own.",
    ]
    return "\n\n".join(sections) + "\n"


def escaped(text: object) -> str:
    """``text`` as one line of Markdown that shows it as it is, in a table too."""
    line = " ".join(str(text).split())
    return _IN_MARKDOWN.sub(r"\\\1", "".join(character for character in line if character.isprintable()))


def _front_matter(config: TrialConfig) -> str:
    # JSON is YAML, and quotes whatever there is.
    library = "timm" if config.stem == "imagenet" else "pytorch"
    tags = list(dict.fromkeys(["mdssl", "self-supervised", "feature-extraction", config.arch, config.method]))
    return (
        f'---\nlibrary_name: "{library}"\npipeline_tag: "image-feature-extraction"\ntags: {json.dumps(tags)}\n'
        "# license: choose one before you publish this\n---"
    )


def _what_it_is(config: TrialConfig, preparation: Preparation, width: int, training: Mapping[str, Any]) -> str:
    variants = training.get("variants", {})
    names = [name_of(name, variants.get(name, "")) for name in config.domains]
    trained_on = f" on {escaped(', '.join(names))}" if names else ""
    stem = {
        "imagenet": "torchvision's own first layers (7x7 convolution of stride 2, max-pool)",
        "cifar": "a 3x3 convolution of stride 1 and no max-pool at its beginning",
        "cifar-pad2": "a 3x3 convolution of stride 1 and padding 2, and no max-pool at its beginning",
    }[config.stem]
    norm = "batch-norm" if config.norm == "batch" else "GroupNorm of 32 groups"
    size = preparation.size
    return (
        f"# {config.arch} encoder {config.trial_id}\n\n"
        f"A {config.arch} with {stem}, {norm}, and no classifier: an RGB image of {size}x{size} pixels gives {width} "
        f"features. Behind it is {_METHODS[config.method]}{trained_on}."
    )


def _scores(scored: Sequence[Mapping[str, Any]]) -> str:
    if not scored:
        return "It has not been scored."
    header = ("dataset", "classes", "trained on its images", "probe", "top-1", "top-5", "kNN top-1", "test images")
    lines = [header, ("---", "--:", "---", "---", "--:", "--:", "--:", "--:")]
    for row in scored:
        percents = [_percent(row[name]) for name in ("top1", "top5", "knn_top1")]
        name = escaped(name_of(row["eval_dataset"], words_of_score(row)))
        name += " (made-up images)" if row["eval_dataset"] in BUILTIN else ""
        seen = "yes" if row["seen"] else "no"
        lines.append((name, str(row["num_classes"]), seen, escaped(row["probe"]), *percents, f"{row['num_test']:,}"))
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        "Percent of the test images, once, at the end of training. Top-1 and top-5 are of a linear classifier that was "
        "fitted to these features of the training images and their labels; kNN is a vote of the nearest training "
        f"images, and fits nothing.\n\n{table}"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _use(
    config: TrialConfig, preparation: Preparation, formats: tuple[str, ...], programs: Mapping[str, Exported]
) -> str:
    size = preparation.size
    paragraphs = [
        f"Images are RGB, both sides resized to {size} pixels with Pillow's {preparation.filter} filter, whatever "
        "their aspect ratio. Another size gives other features. Transparent images were put on white first, which the "
        "code below leaves to you."
    ]
    blocks = loading_code(config, preparation, formats)
    paragraphs += [f"### {heading}\n\n```python\n{code}```" for heading, code in blocks.items()]
    for name, exported in programs.items():
        paragraphs.append(
            f"`{FORMATS[name]}` takes uint8 pixels (batch, {size}, {size}, 3) and normalises them itself. Its features "
            f"differ from the original encoder's by at most {exported.difference:.1e}, measured on drawn images, one "
            "and seven at a time, when this folder was made."
        )
    return "\n\n".join(paragraphs)


def _training(config: TrialConfig, training: Mapping[str, Any]) -> str:
    settings = relevant_settings(config.to_dict()) | {"weights": file_name(config.weights)}
    if config.method != "pretrained":
        settings.pop("weights")
    lines = ["| setting | value |", "| --- | --- |"]
    for name, value in settings.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"| {escaped(name)} | {'' if shown is None else escaped(shown)} |")
    table = "\n".join(lines)
    if not training.get("views_seen"):
        return table
    gpu = f", {training['gpu_hours']:.2f} GPU-hours" if training["gpu_hours"] else ""
    return (
        f"{training['step']:,} steps, {training['views_seen']:,} augmented images, {_duration(training)}{gpu}, on "
        f"{training['num_workers']} x {escaped(training['device'])}; the loss at the end was "
        f"{training['final_loss']:.3f}.\n\n{table}"
    )


def _duration(training: Mapping[str, Any]) -> str:
    seconds = training["train_seconds"]
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 3600:.2f} hours"


def _provenance(config: TrialConfig, provenance: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    facts = {
        "trial": config.trial_id,
        "fingerprint of the training images": config.data_fingerprint,
        "fingerprint of the weights": config.weights_fingerprint,
        "commit of mdssl": provenance.get("git_commit"),
        "mdssl": provenance.get("mdssl_version"),
        "PyTorch": training.get("torch_version"),
        "Ray": provenance.get("ray_version"),
        "finished": training.get("finished_at"),
    }
    lines = [f"- {name}: `{_one_line(value)}`" for name, value in facts.items() if value]
    command = _repeating(config, provenance.get("preset"), workers=training.get("num_workers") or 1)
    return "\n".join(lines) + f"\n\nThe command that makes it again:\n\n    {_one_line(command)}"


def _repeating(config: TrialConfig, preset: str | None, workers: int) -> str:
    if config.method != "pretrained":
        return train_command(config.to_dict(), preset, workers=workers)
    weights = {"weights": file_name(config.weights)}
    scored = {"evaluate": ("DATASET",), "features": ("encoder",)}
    return probe_command(config.trial_id, config.to_dict() | weights, {}, scored)


def _one_line(value: object) -> str:
    """As it stands in a block or span of code, which nothing in it may end."""
    return printable(" ".join(str(value).replace("`", "").split()))


def _limits(
    config: TrialConfig,
    preparation: Preparation,
    training: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
) -> str:
    limits = []
    if config.method == "random":
        limits.append("It is untrained. It is the floor that trained encoders are compared with, and nothing else.")
    if training.get("views_seen") and config.domains:
        share = training["views_seen"] / (_PAPER_VIEWS_PER_DOMAIN * len(config.domains))
        limits.append(
            f"It saw {training['views_seen']:,} augmented images. That is {100 * share:.2g} % of the paper's schedule "
            f"for as many domains ({len(config.domains)}): 48,000 steps of 1,024 images of each, two views."
        )
    if made_up := [name for name in config.domains if name in BUILTIN]:
        limits.append(
            f"Its training images of {escaped(', '.join(made_up))} are small and made up, drawn by a program to try "
            "mdssl out. What it learnt of them says nothing about photographs."
        )
    size = preparation.size
    limits.append(f"It sees {size}x{size} pixels; what is smaller in an image is not in the features.")
    if config.input_size is not None:
        limits.append(
            f"Its scores are of images that were first prepared at their dataset's size and then resized to "
            f"{config.input_size} pixels, bilinearly."
        )
    if config.domains:
        limits.append(f"It is one training run, of seed {config.seed}; another seed gives other scores.")
    if not any(not row["seen"] for row in scored) and config.domains:
        limits.append("Nobody has scored it on a domain that it was not trained on.")
    limits.append("It was not looked at for bias, safety or robustness.")
    return "\n".join(f"- {limit}" for limit in limits)
