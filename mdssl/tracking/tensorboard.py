"""A trial in TensorBoard: an event file for each run, in ``tensorboard/`` of the trial's folder.

    tensorboard --logdir results/trials

An event file is a log of records with checksums, which readers follow while it grows. A run that resumes from a
checkpoint begins its file with a start event, and readers discard later steps of earlier files.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import uuid

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.storage.append_file import AppendFile
from mdssl.storage.location import Location


class TensorBoard:
    """See `mdssl.tracking.trackers.Tracker`."""

    def __init__(self, config: TrialConfig, trial_dir: Location, resumed_at: int | None):
        # Readers sort the files by name.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:4]}"
        self.file = AppendFile(trial_dir / "tensorboard" / name)
        self._write(Event(file_version="brain.Event:2"))
        if resumed_at is not None:
            self._write(Event(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START)))
        # Without a summary of the experiment: the HPARAMS page infers it from all trials.
        _, begin, self._end = summary.hparams(_plain(relevant_settings(config.to_dict())), {})
        self._write(Event(summary=begin))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(name, value)))

    def finish(self, failed: bool) -> None:
        if not failed:
            self._write(Event(summary=self._end))
        self.file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        self.file.write(b"".join(parts))


def _plain(settings: dict) -> dict[str, bool | int | float | str]:
    """Settings without lists and without None, which TensorBoard does not take."""
    known = {name: value for name, value in settings.items() if value is not None}
    return {name: "+".join(value) if isinstance(value, list) else value for name, value in known.items()}
