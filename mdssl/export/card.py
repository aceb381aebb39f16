"""The model card of an exported encoder, ``README.md``, from its trial and its leaderboard rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mdssl.config.encoders import is_timm, timm_name
from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.data.builtin import BUILTIN
from mdssl.export.images import Preparation
from mdssl.export.programs import FORMATS, Exported
from mdssl.leaderboard.names import name_of, words_of_score
from mdssl.pretrain.augment import statistics_of
from mdssl.storage.filesystems import file_name
from mdssl.tables.repeat import probe_command, train_command
from mdssl.terminal import printable

_PAPER_VIEWS_PER_DOMAIN = 48_000 * 1024 * 2
"""Section 3.1: 48,000 steps of 1024 images of each domain, two views of each."""
_SPECIAL_IN_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#!|<>~&$])")


def card(
    config: TrialConfig,
    preparation: Preparation,
    rows: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    *,
    width: int,
    formats: Sequence[str],
    programs: Mapping[str, Exported],
) -> str:
    """Render the card, with the YAML front matter that model hubs read.

    Args:
        rows: the trial's leaderboard rows, by column name.
        training: the content of its ``training.json``.
        width: features of an image.
        formats: those that are in the folder, keys of `FORMATS`.
        programs: the exported programs by format.
    """
    scored = [
        {**row, "name": name_of(row["eval_dataset"], words_of_score(row))}
        for row in rows
        if row["status"] == "finished" and row["features"] == "encoder"
    ]
    row = rows[0] if rows else {}
    variants = training.get("variants", {})
    method, settings = METHODS[config.method], relevant_settings(config.to_dict())
    if method.loads_weights:
        settings["weights"] = file_name(config.weights)
        command = probe_command(config.trial_id, settings, {}, {"evaluate": ("DATASET",), "features": ("encoder",)})
    else:
        settings.pop("weights", None)
        if "init" in settings:
            settings["init"] = file_name(config.init)
        command = train_command(
            config.to_dict() | {"init": file_name(config.init)},
            row.get("preset"),
            workers=training.get("num_workers") or 1,
        )
    mean, std = statistics_of(config.normalization)
    return _TEMPLATES.get_template("card.md").render(
        config=config,
        timm_name=timm_name(config.arch) if is_timm(config.arch) else "",
        size=preparation.size,
        filter=preparation.filter,
        width=width,
        method=method,
        domains=[name_of(name, variants.get(name, "")) for name in config.domains],
        synthetic=[name for name in config.domains if name in BUILTIN],
        builtin=BUILTIN,
        scored=scored,
        formats=formats,
        files=FORMATS,
        programs=programs,
        mean=mean,
        std=std,
        training={"views_seen": 0, **training},
        percent_of_paper=100 * training.get("views_seen", 0) / (_PAPER_VIEWS_PER_DOMAIN * (len(config.domains) or 1)),
        settings=settings,
        provenance={
            "trial": config.trial_id,
            "fingerprint of the training images": config.data_fingerprint,
            "fingerprint of the weights": config.weights_fingerprint,
            "commit of mdssl": row.get("git_commit"),
            "mdssl": row.get("mdssl_version"),
            "PyTorch": training.get("torch_version"),
            "Ray": row.get("ray_version"),
            "finished": training.get("finished_at"),
        },
        command=command,
    )


def escaped(text: object) -> str:
    """``text`` as one line of Markdown that shows it unchanged, also in a table."""
    line = " ".join(str(text).split())
    return _SPECIAL_IN_MARKDOWN.sub(r"\\\1", "".join(character for character in line if character.isprintable()))


def _code(value: object) -> Markup:
    """``value`` for a code span or block: one line without backticks, which would end it."""
    return Markup(printable(" ".join(str(value).replace("`", "").split())))


# Names of datasets and devices are untrusted text: every value is escaped unless a filter says that it is code.
_TEMPLATES = Environment(
    loader=PackageLoader("mdssl.export"),
    autoescape=True,
    finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(value)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"code": _code, "percent": lambda value: "" if value is None else f"{value:.1f}"}
