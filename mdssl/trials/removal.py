"""``mdssl delete``, ``archive`` and ``clean``: what takes trials, or what they need no more, out of a storage.

Only files that mdssl wrote are deleted (`mdssl.storage.ownership`), only under a trial's claim, and only after the user
has seen what and how much it is. Where a command is interrupted, the same one does the rest.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import track

from mdssl.config.presets import place_flags
from mdssl.errors import InputError, some_of
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.files import results_in, trial_ids
from mdssl.storage.claim_files import BEAT, FIRST, SUCCESSOR
from mdssl.storage.location import Location
from mdssl.storage.notes import read_notes, write_notes
from mdssl.storage.ownership import files_in, remove_empty_folders
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import (
    ARCHIVE,
    STABLE,
    TRIAL,
    delete_checkpoints,
    delete_trial,
    rows_file_in,
    stable_dir_in,
    trial_dir_in,
)
from mdssl.trials.control import check_free, held, living_owner, training_status
from mdssl.trials.status import trial_statuses
from mdssl.trials.train_records import all_records

_NAMED, _MANY = 8, 20
T = TypeVar("T")
_TEMPORARY = re.compile(r"(.*/)?\.[^/]*\.[0-9a-f]{8}\.tmp")


def delete_trials(storage: str | Location, chosen: Sequence[str], *, yes: bool, dry_run: bool) -> None:
    """Delete rows and folders of trials that nobody works on, after a question.

    Raises:
        InputError: a living process holds one of them, or there is nobody to ask; nothing has been deleted then.
    """
    storage = Location.of(storage)
    check_free(storage, chosen)
    sizes = in_threads(lambda trial_id: _own(trial_dir_in(storage, trial_id).sizes()), chosen)
    total = sum(sum(each.values()) for each in sizes)
    what = f"{len(chosen)} trial(s) with their rows, {_mb(total)}: {some_of(chosen, _NAMED)}"
    if not _agreed(f"delete {what}", f"in {storage}", yes=yes, dry_run=dry_run):
        return
    records = all_records(storage)
    for trial_id in _each(chosen, "deleting"):
        with held(storage, trial_id, "mdssl delete") as trial_dir:
            rows_file_in(storage, trial_id).delete()
            delete_trial(trial_dir)
            if trial_id in records:
                records[trial_id].delete()
        remove_empty_folders(trial_dir, TRIAL.files)
        if left := files_in(trial_dir):
            print(f"{trial_id}: left in {trial_dir}, as mdssl did not write it: {some_of(left, _NAMED)}")
    if noted := read_notes(storage).keys() & set(chosen):
        write_notes(storage, noted, note="", replace=True)
    print(f"deleted {len(chosen)} trial(s), {_mb(total)}")


def archive_trials(storage: str | Location, chosen: Sequence[str], *, undo: bool) -> None:
    """Move rows, folders, tags and notes of trials to `ARCHIVE`, a storage in the storage, or with ``undo`` back.

    Raises:
        InputError: a living process holds one of them, or the target has a trial of the same id; nothing has been moved
            then.
    """
    storage = Location.of(storage)
    source, target = (storage / ARCHIVE, storage) if undo else (storage, storage / ARCHIVE)
    check_free(source, chosen)
    check_free(target, chosen)
    if there := [trial_id for trial_id in chosen if _is_in_both(source, target, trial_id)]:
        raise InputError(
            f"{some_of(there, _NAMED)}: {target} has a trial of the same id already. Nothing was moved. Delete one of "
            f"the two: `mdssl delete {' '.join(there[:_NAMED])}{place_flags(target)}`."
        )
    notes = read_notes(source)
    for trial_id in _each(chosen, "moving"):
        with held(source, trial_id, "mdssl archive") as trial_dir:
            paths = [path for path in files_in(trial_dir) if not path.startswith((FIRST, SUCCESSOR, BEAT))]
            # The marker and the rows last: until then the rest is found where it was.
            for path in sorted(paths, key=lambda path: path == TRIAL.marker):
                (trial_dir / path).move(trial_dir_in(target, trial_id) / path)
            if rows_file_in(source, trial_id).exists():
                rows_file_in(source, trial_id).move(rows_file_in(target, trial_id))
        remove_empty_folders(trial_dir, paths or (TRIAL.marker,))
        if own := notes.get(trial_id):
            write_notes(target, [trial_id], add=own.tags, note=own.note, replace=True)
            write_notes(source, [trial_id], note="", replace=True)
    back = "" if undo else f"; back with `mdssl archive --undo {' '.join(chosen[:_NAMED])}{place_flags(storage)}`"
    print(f"moved {len(chosen)} trial(s) to {target}{back}")


class _Waste(NamedTuple):
    """Files that nobody needs: how many bytes, of which trial if of one, and where."""

    what: str
    size: int
    trial_id: str
    place: Location


_CHECKPOINTS = "checkpoints of finished trials"
_LEFT = "temporary files of processes that died"
_RECORDS = "records of Ray Train that were left"
_SHARED = "checkpoints shared by trials (--schedule wsd) that are all gone"


def clean(storage: str | Location, chosen: Sequence[str] | None, *, yes: bool, dry_run: bool) -> None:
    """Delete what nobody needs, after a question; trials that are worked on are left out.

    These are checkpoints of finished trials, temporary files and records of killed processes, and what trials of
    schedule wsd shared that are all gone. Encoders, scores, logs and checkpoints of other trials stay.

    Args:
        chosen: only of these trials; of the whole storage if None.

    Raises:
        InputError: there is nobody to ask; nothing has been deleted then.
    """
    storage = results_in(storage)
    waste, busy = _waste_of(storage, chosen)
    if busy:
        print(f"left out, as a process works on them: {some_of(busy, _NAMED)}")
    if not waste:
        print(f"{storage}: nothing to clean")
        return
    for what in (_CHECKPOINTS, _LEFT, _RECORDS, _SHARED):
        if own := [each.size for each in waste if each.what == what]:
            print(f"{_mb(sum(own)):>12}  {what} ({len(own)})")
    total = _mb(sum(each.size for each in waste))
    if not _agreed(f"delete these {total}", f"in {storage}", yes=yes, dry_run=dry_run):
        return
    for each in _each(waste, "cleaning"):
        if not each.trial_id:
            each.place.delete()
            continue
        # Taking the claim deletes the temporary files.
        with held(storage, each.trial_id, "mdssl clean") as trial_dir:
            if each.what == _CHECKPOINTS and training_status(trial_dir) == "finished":
                delete_checkpoints(trial_dir)
            elif each.what == _RECORDS:
                each.place.delete()
    print(f"deleted {total}")


def _waste_of(storage: Location, chosen: Sequence[str] | None) -> tuple[list[_Waste], list[str]]:
    """What `clean` deletes, and the trials of ``chosen`` on which processes work."""
    rows = leaderboard.read(storage)
    finished = set(rows["trial_id"]) - set(rows.loc[rows["status"] != "finished", "trial_id"])
    records = all_records(storage)
    known = trial_ids(storage) if chosen is None else list(chosen)

    def look(trial_id: str) -> list[_Waste] | None:
        trial_dir = trial_dir_in(storage, trial_id)
        if living_owner(trial_dir):
            return None
        sizes = trial_dir.sizes()
        temporary = [size for path, size in sizes.items() if _TEMPORARY.fullmatch(path)]
        found = [_Waste(_LEFT, sum(temporary), trial_id, trial_dir)] if temporary else []
        saved = [size for path, size in _own(sizes).items() if path.startswith("checkpoints/")]
        if saved and trial_id in finished:
            found.append(_Waste(_CHECKPOINTS, sum(saved), trial_id, trial_dir))
        if trial_id in records:
            found.append(_Waste(_RECORDS, sum(records[trial_id].sizes().values()), trial_id, records[trial_id]))
        return found

    looked = dict(zip(known, in_threads(look, known), strict=True))
    waste = [each for found in looked.values() for each in found or ()]
    if chosen is None and (shared := (storage / STABLE).names()):
        places = [place for place in (storage, storage / ARCHIVE) if place.exists()]
        configs = [status.config for place in places for status in trial_statuses(place)]
        used = {config.stable_id for config in configs if config.schedule == "wsd"}
        for name in sorted(set(shared) - used):
            folder = stable_dir_in(storage, name)
            waste.append(_Waste(_SHARED, sum(folder.sizes().values()), "", folder))
    return waste, [trial_id for trial_id, found in looked.items() if found is None]


def in_archive(storage: Location, wanted: Collection[str]) -> list[str]:
    """Those of the trials ``wanted`` that are archived and not in ``storage`` itself."""
    archived = set((storage / ARCHIVE / "trials").names()) & set(wanted)
    # A trial that has only been claimed has a folder without the marker.
    begun = archived and archived & set(trial_ids(storage))
    return sorted(archived - {each for each in begun if (trial_dir_in(storage, each) / TRIAL.marker).exists()})


def _is_in_both(source: Location, target: Location, trial_id: str) -> bool:
    """Whether both have the trial. After an interruption one may have its folder and the other its rows."""
    folders = [trial_dir_in(storage, trial_id) / TRIAL.marker for storage in (source, target)]
    rows = [rows_file_in(storage, trial_id) for storage in (source, target)]
    return any(all(file.exists() for file in files) for files in (folders, rows))


def _own(sizes: dict[str, int]) -> dict[str, int]:
    """Those of the files of a trial, with relative paths, that mdssl wrote."""
    return {path: size for path, size in sizes.items() if TRIAL.holds(path)}


def _agreed(question: str, where: str, *, yes: bool, dry_run: bool) -> bool:
    """Whether the user wants it; prints the ``question``, and asks it without ``yes``.

    Raises:
        InputError: there is no terminal to ask at.
    """
    if dry_run:
        print(f"would {question} {where}")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(f"would {question} {where}; there is no terminal to ask at: add --yes, or see --dry-run.")
    return input(f"{question} {where}? [y/N] ").strip().lower() in ("y", "yes")


def _each(items: Sequence[T], word: str) -> Iterator[T]:
    """``items``, with a progress bar on standard error where there are many."""
    yield from track(items, word, console=Console(stderr=True), transient=True, disable=len(items) < _MANY)


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
