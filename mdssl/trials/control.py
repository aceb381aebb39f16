"""``mdssl stop``, ``retry`` and ``tag``: what a user asks of single trials, through the storage alone, without Ray."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pandas as pd

from mdssl.config.presets import place_flags
from mdssl.config.trial import is_trial_id
from mdssl.errors import InputError, check_tags, some_of
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.leaderboard.files import results_in, trial_ids
from mdssl.leaderboard.notes import with_notes
from mdssl.storage.claim import DEAD_SECONDS, Claim, Owner, holder_of
from mdssl.storage.location import Location
from mdssl.storage.notes import Notes, read_notes, write_notes
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import rows_file_in, stop_request, trial_dir_in
from mdssl.tables.select import matching, parse_condition
from mdssl.tables.trial_name import find_trial
from mdssl.trials.status import STATES, trial_status

_NAMED = 8


def chosen_trials(
    storage: str | Location, names: Sequence[str], where: Sequence[str], *, also_unknown: bool = False
) -> list[str]:
    """The ids of the trials that ``names`` (`mdssl.tables.trial_name.find_trial`) or the conditions ``where`` select.

    Conditions are those of ``mdssl leaderboard``, also on trials that have no row yet: their ``status`` is that of
    `mdssl.trials.status`, and ``sweep`` that of the process that has them.

    Args:
        also_unknown: whether a whole id that the storage does not know is one, as of a trial that is queued.

    Raises:
        InputError: neither or both are given, a name or condition is wrong, or no trial meets the conditions.
    """
    if bool(names) == bool(where):
        raise InputError(
            "give trials (ids, their first digits, best or last) or --where with conditions such as lambda2=0, not "
            "both. `mdssl leaderboard` and `mdssl status` list trials."
        )
    storage = results_in(storage)
    if names:
        known = set(trial_ids(storage))
        return list(
            dict.fromkeys(
                name if is_trial_id(name) and (also_unknown or name in known) else find_trial(storage, name)
                for name in names
            )
        )
    # Here, because it imports torch, for which the other commands need not wait.
    from mdssl.trials.rows import row_without_score

    rows = leaderboard.read(storage)
    others = []
    for trial_id in sorted(set(trial_ids(storage)) - {*rows["trial_id"]}):
        if status := trial_status(storage, trial_id):
            owner = holder_of(trial_dir_in(storage, trial_id))
            sweep = owner.sweep if owner else None
            # Its id may be of an earlier version, with which its settings have another one now.
            others.append(
                row_without_score(status.config) | {"trial_id": trial_id, "status": status.state, "sweep": sweep}
            )
    if others:
        rows = pd.concat([rows, pd.DataFrame(others)], ignore_index=True).astype(rows.dtypes.to_dict())
    found = matching(
        with_notes(leaderboard.with_settings(rows), storage),
        [parse_condition(condition) for condition in where],
        statuses=STATES,
    )
    if found.empty:
        raise InputError(f"no trial of {storage} meets {' '.join(where)}; there is nothing to do.")
    return list(found["trial_id"].unique())


def check_free(storage: Location, chosen: Sequence[str]) -> None:
    """Raise ``InputError`` if living processes work on some of the trials ``chosen``."""
    owners = in_threads(lambda trial_id: living_owner(trial_dir_in(storage, trial_id)), chosen)
    busy = {trial_id: owner for trial_id, owner in zip(chosen, owners, strict=True) if owner}
    if busy:
        listed = some_of((f"{trial_id} by {owner}" for trial_id, owner in busy.items()), _NAMED)
        raise InputError(
            f"claimed by a living process: {listed}. Nothing was changed. `mdssl stop {' '.join(list(busy)[:_NAMED])}"
            f"{place_flags(storage)}` ends training, and scoring ends by itself; a process that died on another "
            f"machine counts as dead after {DEAD_SECONDS:g} s."
        )


def living_owner(trial_dir: Location) -> Owner | None:
    """The owner of the trial, unless it is known to be dead or its last heartbeat is too old."""
    owner = holder_of(trial_dir)
    return None if owner is None or owner.is_gone() or owner == _silent_owner(trial_dir) else owner


@contextmanager
def held(storage: Location, trial_id: str, command: str) -> Iterator[Location]:
    """Hold the claim on a trial; gives its folder. Raises ``InputError`` if a living process holds it."""
    trial_dir = trial_dir_in(storage, trial_id)
    with Claim(trial_dir, command) as claim:
        if owner := claim.take(dead=_silent_owner(trial_dir)):
            raise InputError(f"trial {trial_id} has been claimed by {owner} meanwhile, and was left as it is.")
        yield trial_dir


def _silent_owner(trial_dir: Location) -> Owner | None:
    """The owner of the trial if its last heartbeat is too old, both by the clock of the storage."""
    owner = holder_of(trial_dir)
    renewed = [info.mtime_ns for name, info in trial_dir.listing().items() if name.startswith("claim")]
    if owner is None or not renewed or None in renewed:
        return None
    now = trial_dir.now_ns()
    return owner if now is not None and now - max(filter(None, renewed)) > DEAD_SECONDS * 1e9 else None


def stop_trials(storage: str | Location, chosen: Sequence[str]) -> None:
    """Ask the processes that train ``chosen``, or that have them queued, not to train them further; print what follows.

    The request stays in the trial's folder until `retry_trials`.
    """
    storage = Location.of(storage)
    asked = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": f"{socket.gethostname()}:{os.getpid()}"}
    for trial_id in chosen:
        trial_dir = trial_dir_in(storage, trial_id)
        owner, has_begun = living_owner(trial_dir), (trial_dir / "config.json").exists()
        if training_status(trial_dir) == "finished":
            print(f"{trial_id}: it is trained, nothing to stop")
            continue
        stop_request(trial_dir).write_bytes(json.dumps(asked).encode())
        if owner:
            print(f"{trial_id}: asked {owner} to stop; it saves a checkpoint and stops within some 15 s")
        elif has_begun:
            print(f"{trial_id}: no sweep trains it further until `mdssl retry {trial_id}{place_flags(storage)}`")
        else:
            print(f"{trial_id}: not begun in {storage}; a sweep that has it queued will skip it")


def retry_trials(storage: str | Location, chosen: Sequence[str]) -> None:
    """Let the next sweep or `mdssl train` train stopped and failed trials, and make failed scores; print what follows.

    Deletes the request of `stop_trials` and the rows that are stopped or failed. Checkpoints and scores stay.

    Raises:
        InputError: a living process holds one of them; nothing has been changed then.
    """
    storage = Location.of(storage)
    check_free(storage, chosen)
    for trial_id in chosen:
        with held(storage, trial_id, "mdssl retry") as trial_dir:
            rows = read_rows(storage, trial_id)
            kept = [row for row in rows if row["status"] == "finished"]
            status = training_status(trial_dir)
            request = stop_request(trial_dir)
            if len(kept) == len(rows) and status not in ("failed", "stopped") and not request.exists():
                print(f"{trial_id}: neither stopped nor failed, nothing to do")
                continue
            if status in ("failed", "stopped"):
                (trial_dir / "training.json").delete()
            if kept:
                write_rows(storage, trial_id, kept)
            else:
                rows_file_in(storage, trial_id).delete()
            # Last: if this is interrupted before, the same command does the rest.
            request.delete()
        has_checkpoint = any(name.startswith("step-") for name in (trial_dir / "checkpoints").names())
        how = "continues from its checkpoint" if has_checkpoint else "trains it from the start"
        how = "scores its encoder" if status == "finished" else how
        print(f"{trial_id}: the next sweep that has it, or `mdssl train`, {how}")


def training_status(trial_dir: Location) -> str:
    """The status in ``training.json``; empty where there is none that can be read."""
    try:
        return str(json.loads((trial_dir / "training.json").read_bytes())["status"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return ""


def tag_trials(
    storage: str | Location,
    chosen: Sequence[str],
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    note: str | None = None,
) -> None:
    """Change tags and note of ``chosen``, and print those that they have then.

    Raises:
        InputError: nothing is to be changed, or an invalid tag.
    """
    if not (add or remove) and note is None:
        raise InputError("nothing to change: give --add TAG, --remove TAG or --note TEXT.")
    if both := set(add) & set(remove):
        raise InputError(f"{', '.join(sorted(both))} is to be added and removed; leave one of them out.")
    check_tags([*add, *remove])
    storage = Location.of(storage)
    write_notes(storage, chosen, add=add, remove=remove, note=note)
    known = read_notes(storage)
    for trial_id in chosen:
        notes = known.get(trial_id, Notes())
        print(f"{trial_id}: {' '.join(notes.tags) or 'no tags'}{notes.note and f'; {notes.note}'}")
