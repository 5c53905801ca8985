"""Downloads from a local server: resumed, checked, one at a time, never while offline; the cache; look-up by name."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_release import NAMES, tiny_release

from dsgcli.main import main
from dualstylegan.errors import DownloadError, OfflineError, UsageError
from dualstylegan.events import outcome
from dualstylegan.models import cache, convert, download, zoo
from dualstylegan.models import fetch as fetching
from dualstylegan.models.fetch import Terms, local_path
from dualstylegan.models.library import load_style
from dualstylegan.models.lookup import list_styles
from dualstylegan.models.zoo import Entry, RemoteFile
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.runtime.files import parts_of

CONTENT = bytes(range(256)) * 12_000  # 3 MB: three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" * 6 + "cafe"


def fetch(name, part=None, *, tell=lambda event: None, **terms):
    return outcome(fetching.fetch(name, part, Terms(**terms)), tell)


class Server(ThreadingHTTPServer):
    """Serves /file as CONTENT, and the hub's addresses /REPO/resolve/REVISION/PATH. Its behaviour is in attributes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.files = {}  # other paths, each with its content
        self.etag = SHA256  # what the hub says of the file
        self.cut_after = []  # bytes after which the next answers break off
        self.errors = []  # statuses of the next answers
        self.ranges = True
        self.delay_s = 0.0
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.server.requests.append(("HEAD", self.path, None))
        if self.path.endswith("missing.bin"):
            self.send_error(404)
            return
        content = self.server.files.get(self.path, self.server.content)
        etag = hashlib.sha256(content).hexdigest() if self.path in self.server.files else self.server.etag
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-ETag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(("GET", self.path, wanted))
        if self.path.endswith("missing.bin"):
            self.send_error(404)
            return
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        content = server.files.get(self.path, server.content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        time.sleep(server.delay_s)
        self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch, server):
    for name in ("DSG_OFFLINE", "HF_HUB_OFFLINE", *(n for n in os.environ if n.lower().endswith("_proxy"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    return tmp_path / "home"


def add(monkeypatch, **file):
    """A zoo of one entry `thing` with one file."""
    remote = RemoteFile("file.bin", 3, **file)
    monkeypatch.setattr(zoo, "TABLE", {"thing": Entry("thing", "network", "some licence", {"weights": remote})})


@pytest.fixture
def plain(home, server, monkeypatch):
    """`thing` at a plain address with its whole sha256."""
    add(monkeypatch, sha256=SHA256, mirrors=(f"{server.url}/file.bin",))
    return home / "downloads" / "thing" / "file.bin"


def gets(server):
    return [byte_range for method, _, byte_range in server.requests if method == "GET"]


# One file


def test_a_file_is_fetched_once_then_found(plain, server):
    assert fetch("thing") == plain
    assert plain.read_bytes() == CONTENT
    assert fetch("thing", "weights") == plain
    assert gets(server) == [None]


def test_licence_size_and_address_are_said_before_and_progress_while_it_comes(plain, server, monkeypatch):
    monkeypatch.setattr(fetching, "REPORT_EVERY_S", 0.0)
    events = []
    fetch("thing", tell=events.append, verb="stylize")
    assert {event.verb for event in events} == {"stylize"}
    lines = [event.message for event in events if event.kind == "note"]
    steps = [(event.stage, event.current, event.total) for event in events if event.kind == "progress"]
    assert lines == ["thing: some licence", f"downloading file.bin, about 3 MB, from {server.url}/file.bin"]
    assert steps[-1] == ("file.bin (MB)", 4, 4)  # begun megabytes
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert len(steps) >= 3


def test_a_cut_connection_is_resumed_where_it_broke(plain, server):
    server.cut_after = [1_000_000, 1_500_000]
    assert fetch("thing").read_bytes() == CONTENT
    assert gets(server) == [None, "bytes=1000000-", "bytes=2500000-"]


def test_a_download_killed_yesterday_is_resumed_today(plain, server):
    plain.parent.mkdir(parents=True)
    parts_of(plain).write_bytes(CONTENT[:2_000_000])
    assert fetch("thing").read_bytes() == CONTENT
    assert gets(server) == ["bytes=2000000-"]


def test_a_whole_part_that_was_never_renamed_is_recognised(plain, server):
    plain.parent.mkdir(parents=True)
    parts_of(plain).write_bytes(CONTENT)
    assert fetch("thing").read_bytes() == CONTENT
    assert gets(server) == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 5])
def test_the_beginning_of_another_file_is_thrown_away(plain, server, length):
    plain.parent.mkdir(parents=True)
    parts_of(plain).write_bytes(b"x" * length)
    assert fetch("thing").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(plain, server):
    server.ranges = False
    server.cut_after = [1_000_000]
    assert fetch("thing").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(plain, server):
    server.errors = [503, 429]
    assert fetch("thing").read_bytes() == CONTENT


def test_a_corrupted_file_is_deleted_and_said_in_one_line(plain, server):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match="came damaged") as raised:
        fetch("thing")
    assert "\n" not in str(raised.value) and "file.bin" in str(raised.value)
    assert not [path for path in plain.parent.iterdir() if not path.name.endswith(".lock")]
    server.content = CONTENT
    assert fetch("thing").read_bytes() == CONTENT


def test_a_missing_file_is_said_at_once(home, server, monkeypatch):
    add(monkeypatch, sha256=SHA256, mirrors=(f"{server.url}/missing.bin",))
    with pytest.raises(DownloadError, match=r"missing\.bin: the server answered 404"):
        fetch("thing")
    assert len(server.requests) == 1


def test_a_connection_that_never_works_ends_and_keeps_what_came(plain, server):
    server.cut_after = [1_000_000] + [0] * 20
    with pytest.raises(DownloadError, match="What has come is kept: try again later"):
        fetch("thing")
    assert parts_of(plain).stat().st_size == 1_000_000
    server.cut_after = []
    assert fetch("thing").read_bytes() == CONTENT


def test_the_next_mirror_is_tried(home, server, monkeypatch):
    add(monkeypatch, sha256=SHA256, mirrors=(f"{server.url}/missing.bin", f"{server.url}/file.bin"))
    assert fetch("thing").read_bytes() == CONTENT


def test_eight_published_digits_are_checked_where_there_are_no_more(home, server, monkeypatch):
    add(monkeypatch, sha256=SHA256[:8], mirrors=(f"{server.url}/file.bin",))
    assert fetch("thing").read_bytes() == CONTENT


# The hub


def on_hub(monkeypatch, sha256=None, path="models/file.bin", **more):
    add(monkeypatch, sha256=sha256, repository="CVPR/DualStyleGAN", path=path, **more)


def test_the_hubs_own_hash_counts_where_none_is_pinned(home, server, monkeypatch):
    on_hub(monkeypatch)
    events = []
    assert fetch("thing", tell=events.append).read_bytes() == CONTENT
    lines = [event.message for event in events]
    assert "3.1 MB" in lines[1] and f"revision {COMMIT[:12]}" in lines[1]
    assert server.requests[-1][1] == "/CVPR/DualStyleGAN/resolve/main/models/file.bin"


def test_content_that_is_not_what_the_hub_said_is_refused(home, server, monkeypatch):
    on_hub(monkeypatch)
    server.etag = "0" * 64
    with pytest.raises(DownloadError, match="came damaged"):
        fetch("thing")


def test_small_files_outside_lfs_are_checked_by_their_git_hash(home, server, monkeypatch):
    on_hub(monkeypatch)
    server.etag = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    assert fetch("thing").read_bytes() == CONTENT
    server.etag = "0" * 40
    local_path("thing", "weights").unlink()
    fetching.lock_file().unlink()
    with pytest.raises(DownloadError, match="came damaged"):
        fetch("thing")


def test_a_file_that_changed_on_the_hub_is_refused_before_it_comes(home, server, monkeypatch):
    on_hub(monkeypatch, sha256="1" * 64)
    with pytest.raises(DownloadError, match="no longer the file the zoo knows"):
        fetch("thing")
    assert not gets(server)


def test_a_file_without_any_hash_is_not_trusted(home, server, monkeypatch):
    on_hub(monkeypatch)
    server.etag = "weak"
    with pytest.raises(DownloadError, match="cannot be trusted"):
        fetch("thing")


def test_a_file_the_hub_lacks_comes_from_its_mirror(home, server, monkeypatch):
    on_hub(monkeypatch, SHA256, "models/missing.bin", mirrors=(f"{server.url}/file.bin",))
    assert fetch("thing").read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(home, monkeypatch):
    on_hub(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="check the connection") as raised:
        fetch("thing")
    assert "\n" not in str(raised.value)


def test_an_official_style_comes_from_the_hub_to_the_command_line(home, server, monkeypatch, tmp_path, capsys):
    """The whole way: listed, fetched through a cut connection, converted, found by name, offline from then on."""
    model = tiny_release(tmp_path / "release", refined=False)
    for file in ("generator.pt", "exstyle_code.npy", "sampler.pt"):
        path = f"/CVPR/DualStyleGAN/resolve/main/models/pixar/{file}"
        server.files[path] = (tmp_path / "release" / file).read_bytes()
    encoder = replace(zoo.ENCODER, sha256=None)
    monkeypatch.setitem(zoo.TABLE, "encoder", replace(zoo.TABLE["encoder"], files={"encoder": encoder}))
    monkeypatch.setattr(
        convert, "load_encoder", lambda path, space: SmallEncoder(model.rows, model.style_dim, 32, channels=8)
    )
    server.cut_after = [30_000]

    assert main(["styles", "pull", "pixar"]) == 0
    told = capsys.readouterr()
    assert told.out == "1 fetched, 0 already here, 0 failed.\n"
    assert "S-Lab License" in told.err and f"revision {COMMIT[:12]}" in told.err
    assert told.err.index("S-Lab License") < told.err.index("downloading generator.pt")
    monkeypatch.setenv("DSG_OFFLINE", "1")
    assert list(load_style("pixar").bank.names) == NAMES
    assert not list((home / "downloads").rglob("*.pt"))


# Offline, shared, read-only


@pytest.mark.parametrize("setting", ["argument", "DSG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_names_the_file_and_asks_nobody(plain, server, monkeypatch, setting):
    offline = None
    if setting == "argument":
        offline = True
    else:
        monkeypatch.setenv(setting, "1")
    with pytest.raises(OfflineError, match=r"thing needs file\.bin \(3 MB\), which is not in .*downloads are off: run"):
        fetch("thing", offline=offline)
    assert not server.requests
    assert not plain.parent.exists()

    plain.parent.mkdir(parents=True)
    plain.write_bytes(CONTENT)
    assert fetch("thing", offline=offline) == plain


FETCH = """
import json, sys
from dualstylegan.events import outcome
from dualstylegan.models import zoo
from dualstylegan.models.fetch import fetch
file = zoo.RemoteFile("file.bin", 3, sys.argv[1], mirrors=(sys.argv[2],))
zoo.TABLE = {"thing": zoo.Entry("thing", "network", "some licence", {"weights": file})}
print(outcome(fetch("thing")))
"""


def test_two_processes_share_one_download(plain, server):
    server.delay_s = 1.0  # both are there before the first is done
    command = [sys.executable, "-c", FETCH, SHA256, f"{server.url}/file.bin"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == [str(plain)] * 2
    assert plain.read_bytes() == CONTENT
    assert len(gets(server)) == 1


@contextmanager
def read_only(monkeypatch):
    """As on a read-only file system, for the superuser too, whom modes do not stop."""

    def refuse(*arguments, **settings):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(cache.FileLock, "acquire", refuse)
        patch.setattr(cache.Path, "mkdir", refuse)
        patch.setattr(cache.Path, "touch", refuse)
        yield


def test_a_read_only_cache_can_be_read(plain, server, monkeypatch):
    fetch("thing")
    with read_only(monkeypatch):
        assert fetch("thing") == plain
        assert {style.place for style in list_styles()} <= {"embedded"}


def test_a_read_only_cache_is_said_when_something_is_missing(plain, server, monkeypatch):
    with (
        read_only(monkeypatch),
        pytest.raises(DownloadError, match=r"cannot be written \(Read-only file system\): set DSG_HOME"),
    ):
        fetch("thing")
    assert not server.requests


def test_a_cache_that_is_no_folder_is_said(plain, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSG_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DownloadError, match="set DSG_HOME to a folder that can"):
        fetch("thing")


# The table


def test_every_entry_can_be_named_fetched_and_checked():
    for name, entry in zoo.TABLE.items():
        assert entry.name == name
        assert entry.kind in ("style", "base", "network")
        assert entry.licence
        for file in entry.files.values():
            assert file.repository or file.mirrors
            # plain addresses have no hub to ask for a hash
            assert not file.mirrors or file.sha256
            assert file.sha256 is None or len(file.sha256) in (8, 64)
            assert file.about_mb > 0


def test_the_seven_official_styles_have_their_counts_and_weights():
    styles = {entry.name: entry for entry in zoo.TABLE.values() if entry.kind == "style"}
    counts = {"cartoon": 317, "caricature": 199, "anime": 174, "pixar": 122, "comic": 101, "slamdunk": 120}
    assert {name: styles[name].exemplars for name in counts} == counts
    assert "arcane" in styles
    assert all(len(style.weights) == 18 for style in styles.values())
    assert styles["anime"].weights == (0.0,) * 4 + (0.75,) * 3 + (1.0,) * 11
    assert styles["caricature"].weights == (1.0,) * 18
    assert styles["cartoon"].weights == (0.75,) * 7 + (1.0,) * 11
    assert {name for name, style in styles.items() if "refined" in style.files} == {"cartoon", "caricature", "anime"}
    assert all("non-commercial" in style.licence for style in styles.values())


def test_the_table_says_which_hashes_were_never_checked_against_a_download():
    assert not any(file.checked for entry in zoo.TABLE.values() for file in entry.files.values())


def test_entries_that_share_a_file_share_its_place(home):
    assert local_path("ffhq", "encoder") == local_path("encoder", "encoder")


def test_wrong_names_say_what_exists():
    with pytest.raises(UsageError, match=r"The zoo has no 'vgg18'\. Did you mean 'vgg1[69]'\?"):
        fetch("vgg18")
    with pytest.raises(UsageError, match="'anime' has no part 'decoder'; it has generator, codes, sampler, refined"):
        fetch("anime", "decoder")


# Listing


def test_a_damaged_style_does_not_hide_the_others(home, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "EMBEDDED", tmp_path / "weights")
    for name, text in {"broken": "{", "orphan": json.dumps({"kind": "style", "base": {"sha256": "0"}})}.items():
        folder = home / "styles" / name
        folder.mkdir(parents=True)
        (folder / "header.json").write_text(text)
    listed = {style.name: style for style in list_styles()}
    assert listed["broken"].problem == "damaged header.json"
    assert listed["orphan"].problem == "its base model is missing"
    assert listed["anime"].place == "downloadable"
