"""What replaces pyarrow's filesystem, threads and events in a simulation of claims: see `claim_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.fs

if TYPE_CHECKING:
    from claim_model import World

BEAT = "claim-beat-"


class Store:
    """The methods of pyarrow's S3 filesystem that `Location` uses."""

    type_name = "s3"

    def __init__(self, world: World):
        self.world = world

    def get_file_info(self, what):
        return self.world.request(lambda: self._info(what), changes=False)

    def _info(self, what):
        files = self.world.files
        if isinstance(what, str):
            kind = pyarrow.fs.FileType.File if what in files else pyarrow.fs.FileType.NotFound
            return pyarrow.fs.FileInfo(what, kind)
        start = f"{what.base_dir}/"
        inside = sorted(name for name in files if name.startswith(start) and "/" not in name.removeprefix(start))
        return [pyarrow.fs.FileInfo(name, pyarrow.fs.FileType.File) for name in inside]

    def open_input_file(self, path):
        data = self.world.request(lambda: self._read(path), changes=False)
        return pyarrow.BufferReader(data)

    def _read(self, path):
        world = self.world
        if BEAT in path:
            token = path.partition(BEAT)[2]
            world.last_looks[world.current[0], token] = (world.now, float(world.files.get(path, 0)))
        if path not in world.files:
            if "claim-after" in path:
                world.read_at[world.current[1]] = world.now
            raise FileNotFoundError(path)
        return world.files[path]

    def open_output_stream(self, path):
        world = self.world

        class Stream:
            def __enter__(self):
                return self

            def write(self, data):
                world.request(lambda: world.files.update({path: data}), changes=True)

            def __exit__(self, *exception):
                pass

        return Stream()

    def delete_file(self, path):
        def action():
            if path not in self.world.files:
                raise FileNotFoundError(path)
            self.world.check_deletion(path)
            del self.world.files[path]

        self.world.request(action, changes=True)


def thread_of(world: World):
    class Thread:
        def __init__(self, target, name, daemon):
            self.target, self.ended = target, False

        def start(self):
            def run():
                self.target()
                self.ended = True

            world.start(world.current[0], run)

        def join(self):
            while not self.ended:
                world.pause(0.1)

    return Thread


def event_of(world: World):
    class Event:
        is_set = False

        def set(self):
            self.is_set = True

        def clear(self):
            self.is_set = False

        def wait(self, seconds):
            end = world.now + seconds
            while not self.is_set and world.now < end:
                world.pause(min(1, end - world.now))
            return self.is_set

    return Event
