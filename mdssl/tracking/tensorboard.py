"""A trial in TensorBoard: an event file for each run of it, in ``tensorboard/`` of its folder.

    tensorboard --logdir results/trials

Event files are logs of checked records, which readers follow while they grow. A run that goes on from a checkpoint says
so at the start of its file, and readers forget what an earlier one had told of later steps.
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
        # Readers take the files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:4]}"
        self.file = AppendFile(trial_dir / "tensorboard" / name)
        self._write(Event(file_version="brain.Event:2"))
        if resumed_at is not None:
            self._write(Event(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START)))
        # No summary of an experiment: the HPARAMS page makes one of all trials that it finds.
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
    """Settings as TensorBoard takes them: without lists, and without those that are not set."""
    known = {name: value for name, value in settings.items() if value is not None}
    return {name: "+".join(value) if isinstance(value, list) else value for name, value in known.items()}
