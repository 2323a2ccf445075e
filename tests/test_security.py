"""What SECURITY.md says beside the corpus: versions, tests and the network."""

import re
import socket
import tomllib
from pathlib import Path

import pytest
from corpus import folder_of
from small_runs import config, fit

from main import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_the_versions_that_are_safe_are_required() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert "lightning>=2.6.6,<2.7" in needed and "`lightning>=2.6.6,<2.7`" in TEXT
    assert "torch>=2.10" in needed and "from torch 2.10 on" in TEXT


def test_the_tests_that_are_named_are_there() -> None:
    named = set(re.findall(r"test_\w+\.py", TEXT))
    assert len(named) > 5 and not [name for name in named if not (ROOT / "tests" / name).is_file()]


def test_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command asks for a connection or for an address of another machine."""
    asked = []

    def refuse(*args: object, **_: object) -> None:
        asked.append(args)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.chdir(tmp_path)
    last = str(fit(tmp_path, config(images=64)) / "checkpoints" / "last.ckpt")
    assert main(["sample", "--ckpt_path", last, "--seeds", "0-3"]) == 0
    data = str(folder_of(tmp_path / "d"))
    assert main(["data", "check", data]) == 0
    assert main(["data", "pack", data, "--to", "parquet", "--out", "a.parquet"]) == 0
    assert not asked
