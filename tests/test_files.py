"""Files that appear whole or not at all, and places that one process writes at a time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from robot_wm import files
from robot_wm.files import (
    check_space,
    output_dir,
    owning,
    replacing,
    replacing_all,
    replacing_directory,
)

HOLD = (
    "import sys, time; from pathlib import Path; from robot_wm.files import owning\n"
    "with owning(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as scratch:
        scratch.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing(path) as scratch:
        scratch.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one" and names(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()  # as any file that is written


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_files_are_replaced_in_order_or_none(tmp_path):
    paths = [tmp_path / "a", tmp_path / "sub" / "b"]
    with replacing_all(paths) as scratches:
        for scratch in scratches:
            scratch.write_text("one")
    with pytest.raises(FileNotFoundError), replacing_all(paths) as scratches:
        scratches[0].write_text("two")  # and the second is forgotten
    assert [path.read_text() for path in paths] == ["one", "one"]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    place = tmp_path / "checkpoint"
    for text in ("one", "two"):
        with replacing_directory(place) as scratch:
            (scratch / text).write_text(text)
        assert names(place) == [text]
    with pytest.raises(RuntimeError), replacing_directory(place) as scratch:
        (scratch / "three").write_text("three")
        raise RuntimeError
    assert names(place) == ["two"] and names(tmp_path) == ["checkpoint"]


def test_a_place_has_one_writer_whose_name_the_next_is_told(tmp_path):
    place = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"mine\n"
        with pytest.raises(FileExistsError, match=f"process {child.pid}"), owning(place):
            pass
        with owning(tmp_path / "other"):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with owning(place):  # the kernel has let go of it
        pass
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    place = tmp_path / "a[1].txt"
    others = [".a1.txt.abcdef12.tmp", ".a[1].txt.v2.abcdef12.tmp"]
    for name in (".a[1].txt.abcdef12.tmp", *others):
        (tmp_path / name).mkdir()
    with owning(place):
        assert ".a[1].txt.abcdef12.tmp" not in names(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_an_exchange_that_was_cut_in_two_is_finished(tmp_path):
    place = tmp_path / "checkpoint"
    left = tmp_path / ".checkpoint.abcdef12.tmp"
    for name in ("old", "new"):
        (left / name).mkdir(parents=True)
        (left / name / name).touch()
    with owning(place):
        assert names(place) == ["new"]
    assert names(tmp_path) == ["checkpoint"]


def test_a_link_and_what_it_leads_to_are_one_place(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with owning(tmp_path / "link"), pytest.raises(FileExistsError), owning(tmp_path / "real"):
        pass


def test_a_place_is_let_go_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), owning(tmp_path / "out"):
        raise RuntimeError
    with owning(tmp_path / "out"), pytest.raises(FileExistsError), owning(tmp_path / "out"):
        pass


def test_no_two_of_many_own_a_place_at_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from robot_wm.files import owning\n"
        "place, mark = Path(sys.argv[1]), Path(sys.argv[1] + '.mark')\n"
        "until = time.monotonic() + 1.5\n"
        "while time.monotonic() < until:\n"
        "    try:\n"
        "        with owning(place):\n"
        "            mark.touch(exist_ok=False); time.sleep(0.001); mark.unlink()\n"
        "    except FileExistsError as error:\n"
        "        assert 'mark' not in str(error), error\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]


def test_a_disk_without_room_is_told_before_the_write(tmp_path, monkeypatch):
    check_space(tmp_path, 1000)
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(OSError, match="MiB are free"):
        check_space(tmp_path, 1000)


@pytest.mark.parametrize("fault", ["parent", "mount"])
def test_a_directory_that_cannot_be_replaced_is_told_before_the_work(tmp_path, monkeypatch, fault):
    """Rights and mounts are made up: the tests may run as root, who may do anything."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    if fault == "mount":
        monkeypatch.setattr(files.os.path, "ismount", lambda path: path == out)
    else:
        monkeypatch.setattr(files.os, "access", lambda path, mode: path != tmp_path)
    assert output_dir(str(out)) == out
    for place in (out, tmp_path / "link"):
        with pytest.raises(PermissionError, match="replaced as a whole"):
            output_dir(str(place), replaced=True)
    assert output_dir(str(out / "in" / "it"), replaced=True) == out / "in" / "it"


def test_two_writers_in_a_row_make_different_scratches(tmp_path):
    seen = set()
    for _ in range(3):
        with replacing(tmp_path / "a") as scratch:
            scratch.write_text(str(time.monotonic_ns()))
            seen.add(scratch)
    assert len(seen) == 3
