"""The Ray cluster of a sweep beside another one: its address, process groups and temporary folder."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from mdssl.errors import InputError
from mdssl.sweep import temporary
from mdssl.sweep.ray_session import ray_session
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.temporary import temporary_folder


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_uses_its_own_ray_which_runs_in_a_separate_process_group(cluster, tmp_path, monkeypatch):
    """Ray Train looks up the actors of a dead trial. Without an address it finds two Ray clusters and fails."""
    import ray

    # Too long for the paths of the sockets of Ray.
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    before = dict(os.environ)
    with ray_session(SweepSettings(domains=("none",)), Console()) as folder:

        @ray.remote(num_cpus=0)
        def seen():
            from ray.util.state import list_nodes

            return len(list_nodes()), os.getpgid(os.getppid())

        nodes, group_of_raylet = ray.get(seen.remote())
        assert nodes == 1
        assert group_of_raylet != os.getpgrp()
        assert folder.path.parent == Path("/tmp")
        assert folder.path.stat().st_mode & 0o777 == 0o700
    assert not folder.path.exists()
    # The sweep does not affect another Ray that the process starts later. Ray itself sets these two variables.
    assert os.environ.keys() - before.keys() <= {"PYTHONBREAKPOINT", "RAY_USAGE_STATS_ENABLED"}


def test_a_node_of_ray_may_start_slowly_and_says_nothing(monkeypatch, capsys):
    import ray
    from ray._private import services

    errors = [RuntimeError("Deadline Exceeded")] * 3
    found = []

    def get_node(address, node):
        if errors:
            raise errors.pop()
        return address, node

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(ray, "init", lambda **settings: found.append(services.get_node("127.0.0.1:1", "node")))
    monkeypatch.setattr("mdssl.sweep.stopping.delete_records", lambda: None)
    with ray_session(SweepSettings(domains=("none",)), Console()):
        assert found == [("127.0.0.1:1", "node")]
        ray._private.worker.print_to_stdstream({"lines": ["(raylet) a warning"], "pid": "raylet"}, ignore_prefix=False)
        assert capsys.readouterr() == ("", "")
    assert services.get_node is get_node

    errors += [RuntimeError("Deadline Exceeded")]
    monkeypatch.setattr("mdssl.sweep.ray_session._START_SECONDS", -1)
    console = Console(record=True)
    session = ray_session(SweepSettings(domains=("none",)), console)
    with pytest.raises(InputError, match="Ray could not be started on this machine: Deadline Exceeded. Its"), session:
        raise AssertionError("no Ray")
    shutil.rmtree(console.export_text().strip().removeprefix("Ray's logs: "))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from modules of Ray
def test_the_longest_temporary_folder_fits_the_longest_socket_path_of_ray(monkeypatch):
    from ray.dashboard.dashboard import dashboard_utils
    from ray.dashboard.subprocesses.module import SubprocessModule

    modules = [kind.__name__ for kind in dashboard_utils.get_all_modules(SubprocessModule) if kind.is_enabled()]
    assert "MetricsHead" in modules
    session = f"mdssl-ray-01234567/r/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets"
    sockets = [f"{session}/{name}" for name in ("plasma_store", "raylet", *(f"dash_{name}" for name in modules))]
    monkeypatch.setenv("RAY_TMPDIR", "/" + "t" * 200)
    assert temporary._parent() == Path("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", "/" + "t" * (temporary._LONGEST - 1))
    assert max(len(str(temporary._parent() / socket)) for socket in sockets) == 107


def test_only_temporary_folders_of_killed_sweeps_are_removed(tmp_path, monkeypatch):
    # The folders of pytest have longer paths.
    monkeypatch.setattr(temporary, "_LONGEST", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with temporary_folder() as runs:
        killed, lock = temporary._make(tmp_path)
        os.close(lock)
        kept, foreign = (tmp_path / f"mdssl-ray-{name}" for name in ("kept", "foreign"))
        for folder in (killed, kept, foreign):
            (folder / "session").mkdir(parents=True)
            (folder / "session/file").touch()
        (tmp_path / "mdssl-ray-link").symlink_to(killed)
        with temporary_folder() as second:
            second.keep = True
        assert not killed.exists() and second.path.exists()
        assert kept.exists() and foreign.exists() and runs.path.exists()
        with temporary_folder():
            assert second.path.exists(), "a folder with kept logs is not removed"
    assert not runs.path.exists()


def test_the_temporary_folder_of_a_running_sweep_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "_LONGEST", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with temporary_folder() as folder:
        descriptor = os.open(folder.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        assert folder.path.stat().st_mode & 0o777 == 0o700
        # A sweep also ends without an error where processes of Ray delete files at the same time.
        shutil.rmtree(folder.path)
