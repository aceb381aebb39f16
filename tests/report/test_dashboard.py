import gzip
import http.client
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_board import config, stand_in_for_figures, write_failed, write_trial

from mdssl.cli.main import main
from mdssl.leaderboard.board import file_of
from mdssl.report import dashboard as dashboard_module
from mdssl.report import server
from mdssl.report.dashboard import Dashboard
from mdssl.report.folder import Folder
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location

TRIAL = config()


@pytest.fixture
def results(storage, monkeypatch):
    """A storage with two trials, and a stand-in for the figures."""
    monkeypatch.setitem(sys.modules, "mdssl.figures", module := stand_in_for_figures())
    write_trial(storage, TRIAL, {"cifar10": 50.0, "svhn": 40.0})
    write_trial(storage, config(method="simclr"), {"cifar10": 45.0, "svhn": 44.0})
    return storage, module


@pytest.fixture
def dashboard(results, tmp_path):
    return Dashboard(Location.of(results[0]), Folder(tmp_path / "pages", storage=results[0]))


@pytest.fixture
def serving(results, monkeypatch):
    """A function that starts the server; returns ``get(path, method, **headers)``, the printed line and the port."""
    started = []

    def start(**arguments):
        lines, ready = [], threading.Event()
        listen = server._listen
        monkeypatch.setattr(server, "_listen", lambda *where: started.append(listen(*where)) or started[-1])
        monkeypatch.setattr(Dashboard, "follow", lambda self, say: None)
        own = {"host": "127.0.0.1", "port": 0, "say": lambda line: (lines.append(line), ready.set())} | arguments
        threading.Thread(target=server.serve, args=(results[0],), kwargs=own, daemon=True).start()
        assert ready.wait(60)
        port = started[-1].server_address[1]

        def get(path="/", method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            answer.body = answer.read()
            connection.close()
            return answer

        return get, lines[0], port

    yield start
    for each in started:
        each.shutdown()


def test_the_server_serves_only_pages_of_the_report(serving, results):
    get, line, port = serving()
    assert f"http://127.0.0.1:{port}/ until Ctrl-C" in line and "token" not in line
    index = get()
    assert index.status == 200 and b"Sweeps in results" in index.body
    assert index.headers["Cache-Control"] == "no-store" and index.headers["X-Frame-Options"] == "DENY"
    trial = get(f"/trials/{TRIAL.trial_id}.html")
    assert trial.status == 200 and b"Reproduce" in trial.body
    assert get(f"/trials/{TRIAL.trial_id}-loss-terms.svg").headers["Content-Type"] == "image/svg+xml"
    assert b"trial_id" in get("/leaderboard.csv").body
    head = get(method="HEAD")
    assert head.status == 200 and head.body == b"" and head.headers["Content-Length"] == str(len(index.body))
    packed = get(Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == index.body
    outside = ["/../results/trials", "/%2e%2e/report.json", "/report.json", f"/trials/../{Path(__file__).name}"]
    outside += [str(Path(__file__)), f"/{Path(__file__)}", "/trials/0123456789ab.html", "/trials/%00.html", "/figures/"]
    assert [path for path in outside if get(path).status != 404] == []
    assert [method for method in ("POST", "PUT", "DELETE", "OPTIONS") if get(method=method).status != 501] == []


def test_without_a_token_only_local_host_names_are_accepted(serving):
    get, _, port = serving()
    for name in ("localhost", f"localhost:{port}", "127.0.0.1:9", "[::1]:8099", "LOCALHOST"):
        assert get(Host=name).status == 200, name
    for name in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "[",
        "localhost@evil.example",
    ):
        assert get(Host=name).status == 421, name


@pytest.mark.parametrize("arguments", [{"token": True}, {"host": "0.0.0.0"}], ids=["asked for", "another host"])
def test_a_token_is_exchanged_for_a_cookie(serving, arguments):
    get, line, _ = serving(**arguments)
    token = line.partition("?token=")[2].split()[0]
    assert len(token) >= 32
    for refused in (get(), get("/version"), get(f"/?token={token[:-1]}"), get("/?token=%C3%A9"), get(Cookie="=;;")):
        assert refused.status == 403 and b"Sweeps" not in refused.body
    first = get(f"//evil.example/?token={token}")
    assert first.status == 303 and first.headers["Location"] == "/evil.example/"
    cookie = first.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert get(Cookie=cookie.split(";")[0]).status == 200
    assert get(Cookie=cookie.split(";")[0][:-1]).status == 403
    # Numeric addresses are accepted, because only host names can belong to another site.
    assert get(Host="10.0.0.1", Cookie=cookie.split(";")[0]).status == 200
    assert get(Host="evil.example", Cookie=cookie.split(";")[0]).status == 421


@pytest.mark.parametrize("problem", ["taken", "foreign", "number", "storage"])
def test_dashboard_errors_are_one_line(serving, results, capsys, problem):
    _, _, port = serving()
    words = {
        "taken": ["--port", str(port)],
        "foreign": ["--host", "203.0.113.7"],
        "number": ["--port", "70000"],
        "storage": ["--storage", f"{results[0]}/trials/x"],
    }[problem]
    assert main(["dashboard", "--storage", results[0], *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = {"taken": f"port {port}: Address already in use", "foreign": "203.0.113.7", "number": "65535"}
    assert expected.get(problem, "no such folder") in line


def test_ctrl_c_ends_the_dashboard_with_one_line(results, capsys, monkeypatch):
    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(server._Server, "serve_forever", interrupted)
    monkeypatch.setattr(Dashboard, "follow", lambda self, say: None)
    assert main(["dashboard", "--storage", results[0], "--port", "0"]) == 130
    assert capsys.readouterr().err.split("\n") == ["", "interrupted.", ""]


def test_the_first_page_follows_the_storage_and_trial_pages_are_drawn_on_request(dashboard, results):
    storage, figures = results
    before = dashboard.version
    assert f'data-live="{before}"'.encode() in dashboard.page("index.html") and figures.drawn == []
    assert not dashboard.update() and dashboard.version == before
    new = write_trial(storage, config(lambda2=0.4), {"cifar10": 51.0, "svhn": 41.0})
    assert dashboard.page(f"trials/{new}.html") is None
    assert dashboard.update() and dashboard.version != before
    assert new in dashboard.page("index.html").decode() and figures.drawn == []
    dashboard.draw()
    page = dashboard.page("index.html").decode()
    assert new in page and "figures/lambda-curves.svg" in page and '"loss":[[10,20],[5.0,4.0]]' in page
    assert figures.drawn == ["lambda-curves.svg"]
    assert b"Reproduce" in dashboard.page(f"trials/{new}.html")
    assert figures.drawn == ["lambda-curves.svg", f"{new}-loss-terms.svg"]
    dashboard.page(f"trials/{new}.html")
    assert len(figures.drawn) == 2
    file_of(storage, new).delete()
    dashboard.update()
    assert new not in dashboard.page("index.html").decode().partition("Still running")[0]
    assert dashboard.page(f"trials/{new}.html") is None


def test_slow_figures_are_drawn_less_often_than_rows_are_updated(dashboard, monkeypatch):
    clock, done = [0.0], []

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] > 200:
            raise KeyboardInterrupt

    def draw():
        done.append(("draw", clock[0]))
        clock[0] += 60

    monkeypatch.setattr(dashboard_module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(dashboard, "update", lambda: done.append(("update", clock[0])))
    monkeypatch.setattr(dashboard, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        dashboard.follow(print)
    updates = [at for what, at in done if what == "update"]
    assert updates[:3] == [0, 65, 70] and [at for what, at in done if what == "draw"] == [0, 180]


@pytest.mark.parametrize("error", [OSError("away"), IndexError("out of range")], ids=["storage", "defect"])
def test_errors_of_drawing_do_not_end_the_updates(dashboard, monkeypatch, error):
    def fail():
        raise error

    def sleep(seconds):
        raise KeyboardInterrupt

    lines = []
    monkeypatch.setattr(dashboard_module, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
    monkeypatch.setattr(dashboard, "update", lambda: False)
    monkeypatch.setattr(dashboard, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        dashboard.follow(lines.append)
    (line,) = lines
    assert line.startswith("the page could not be updated: ") and str(error) in line


def test_the_first_page_shows_trials_without_rows(dashboard, results):
    trial = config(lambda2=0.6)
    file = Location.of(results[0]) / "trials" / trial.trial_id / "config.json"
    file.write_bytes(json.dumps(trial.to_dict()).encode())
    version = dashboard.version
    assert dashboard.update() and dashboard.version != version
    # No process has claimed the trial.
    assert "1 stopped without a row" in " ".join(dashboard.page("index.html").decode().split())


def test_a_failed_trial_that_is_trained_again_is_shown_as_running(dashboard, results):
    storage = Location.of(results[0])
    trial = config(lambda2=0.7)
    write_failed(str(storage), trial)
    folder = storage / "trials" / trial.trial_id
    (folder / "config.json").write_bytes(json.dumps(trial.to_dict()).encode())
    assert dashboard.update()
    assert "Still running:</b> nothing." in " ".join(dashboard.page("index.html").decode().split())
    with Claim(folder, "lambda_grid") as claim:
        claim.take()
        assert dashboard.update(), "files of a failed trial are watched"
        page = " ".join(dashboard.page("index.html").decode().split())
        assert "Still running:</b> 1 trials." in page
