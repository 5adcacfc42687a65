"""Reading ahead touches a file that fits, leaves one that does not, and survives one that goes away."""

import io

import pytest

from datamodules import readahead


def test_a_file_that_fits_is_read_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(100))
    monkeypatch.setattr(readahead, "BLOCK", 64)
    sizes = []

    class Stream(io.FileIO):
        def readinto(self, buffer):
            sizes.append(super().readinto(buffer))
            return sizes[-1]

    monkeypatch.setattr(readahead, "open", lambda path, *mode, **buffering: Stream(path), raising=False)
    thread = readahead.read_ahead(tmp_path / "file")
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive() and sizes == [64, 36, 0]
    readahead._read(tmp_path / "gone")
    monkeypatch.setattr(readahead, "available_bytes", lambda: 199)
    assert readahead.read_ahead(tmp_path / "file") is None


def test_available_memory_is_known_here():
    if not readahead.Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo")
    assert readahead.available_bytes() > 1 << 20
