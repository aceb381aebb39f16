"""The commands that control single trials: ``mdssl stop``, ``retry``, ``tag``, ``archive``, ``delete``, ``clean``."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from mdssl.cli.places import StorageFlag
from mdssl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Chosen(StorageFlag):
    chosen: Positional[tuple[str, ...]] = ()
    """Trials: ids, 4 or more of their first digits, best (by validation score) or last (that has finished)."""
    where: tuple[str, ...] = ()
    """Instead of names: all trials that meet these conditions, as in `mdssl leaderboard`: status=failed lambda2=0
    "top1<20" tags=bad. Trials without a row are included."""


@dataclass(frozen=True, kw_only=True)
class Asks(Chosen):
    yes: bool = False
    """Do not ask. Needed where there is no terminal."""
    dry_run: bool = False
    """Print what would be deleted and how much it is, then stop."""


def stop(settings: Chosen) -> None:
    """Stop training trials, and let no sweep train them further until `mdssl retry`.

    The request is a file in the storage, so this works from any machine, without Ray. A trial that trains saves a
    checkpoint within some 15 seconds, and its sweep continues with the others. One that is queued, named by its whole
    id, is skipped.

    Examples:
      mdssl stop 0123456789ab
      mdssl stop --where sweep=lambda_grid lambda2=0 status=training
    """
    from mdssl.trials.control import chosen_trials, stop_trials

    stop_trials(settings.storage, chosen_trials(settings.storage, settings.chosen, settings.where, also_unknown=True))


def retry(settings: Chosen) -> None:
    """Let stopped and failed trials be trained again by the next sweep that has them, or by `mdssl train`.

    They continue from their checkpoints. Scores that are there stay.

    Examples:
      mdssl retry 0123456789ab
      mdssl retry --where status=failed
    """
    from mdssl.trials.control import chosen_trials, retry_trials

    retry_trials(settings.storage, chosen_trials(settings.storage, settings.chosen, settings.where))


def delete(settings: Asks) -> None:
    """Delete trials: their rows, files, tags and notes. It prints how much that is, and asks first.

    Trials on which a process works are refused. A sweep that has a deleted trial in its grid trains it again.

    Examples:
      mdssl delete 0123456789ab fedc
      mdssl delete --where status=failed --dry-run
    """
    from mdssl.trials.control import chosen_trials
    from mdssl.trials.removal import delete_trials

    chosen = chosen_trials(settings.storage, settings.chosen, settings.where)
    delete_trials(settings.storage, chosen, yes=settings.yes, dry_run=settings.dry_run)


@dataclass(frozen=True, kw_only=True)
class Archive(Chosen):
    undo: bool = False
    """Move archived trials back."""


def archive(settings: Archive) -> None:
    """Move trials out of the leaderboard, figures and report, into the folder archive of the storage.

    The archive is itself a storage, which other commands read: --storage results/archive. Files of a trial that is
    worked on are not moved. A sweep with an archived trial in its grid prints a note and trains it again.

    Examples:
      mdssl archive --where sweep=lambda_grid lambda1=0.5
      mdssl archive --undo 0123456789ab
    """
    from mdssl.storage.location import Location
    from mdssl.storage.trial_dir import ARCHIVE
    from mdssl.trials.control import chosen_trials
    from mdssl.trials.removal import archive_trials

    source = Location.of(settings.storage)
    if settings.undo:
        source /= ARCHIVE
        if not source.exists():
            raise InputError(f"nothing is archived in {settings.storage}; --storage selects another place.")
    archive_trials(settings.storage, chosen_trials(source, settings.chosen, settings.where), undo=settings.undo)


def clean(settings: Asks) -> None:
    """Delete what nobody needs: checkpoints of finished trials, and what killed processes left. It asks first.

    Without trials and --where, of the whole storage. Encoders, scores, logs, the checkpoints of unfinished trials and
    those that longer trials continue from (--schedule wsd) stay.

    Examples:
      mdssl clean --dry-run
      mdssl clean --yes
    """
    from mdssl.trials.control import chosen_trials
    from mdssl.trials.removal import clean as clean_up

    everything = not settings.chosen and not settings.where
    chosen = None if everything else chosen_trials(settings.storage, settings.chosen, settings.where)
    clean_up(settings.storage, chosen, yes=settings.yes, dry_run=settings.dry_run)


@dataclass(frozen=True, kw_only=True)
class Tag(Chosen):
    add: tuple[str, ...] = ()
    """Tags to add: letters, digits and . : _ - without spaces."""
    remove: tuple[str, ...] = ()
    """Tags to remove."""
    note: str | None = None
    """A text on each of these trials, in place of an earlier one; "" removes it."""


def tag(settings: Tag) -> None:
    """Add and remove tags of trials, or write a note on them. The leaderboard and the report show both.

    They are no part of a trial's id. `mdssl sweep --tag` tags all trials of a sweep when it starts.

    Examples:
      mdssl tag best 0123 --add good --remove unsure --note "stable over seeds"
      mdssl tag --where sweep=lambda_grid "top1<20" --add bad
      mdssl leaderboard --where tags=good
    """
    from mdssl.trials.control import chosen_trials, tag_trials

    chosen = chosen_trials(settings.storage, settings.chosen, settings.where)
    tag_trials(settings.storage, chosen, add=settings.add, remove=settings.remove, note=settings.note)
