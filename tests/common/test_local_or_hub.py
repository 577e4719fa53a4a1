"""What a checkpoint's name means: a folder, a run, a hub id; and what happens without a network.

Run: pytest tests/common/test_local_or_hub.py
"""

import os
import socket
import sys
import urllib.request
from importlib import metadata

import pytest
from huggingface_hub import constants

from common.errors import InputError, run
from common.files import local_folder, resolve_folder
from common.hub import use_local_copies_offline


def test_a_run_stands_for_its_final(tmp_path):
    (tmp_path / "run/final").mkdir(parents=True)
    (tmp_path / "run/settings.json").write_text("{}")
    assert local_folder(tmp_path / "run") == resolve_folder(tmp_path / "run")
    assert local_folder(tmp_path / "run") == tmp_path / "run/final"
    assert local_folder(tmp_path / "run/final") == tmp_path / "run/final"
    (tmp_path / "run/config.json").write_text("{}")  # a checkpoint with a folder of that name
    assert local_folder(tmp_path / "run") == tmp_path / "run"


def test_a_path_is_looked_for_before_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("owner/name") is None
    (tmp_path / "owner").mkdir()
    with pytest.raises(InputError, match="^--x: owner/name does not exist, and owner is a folder$"):
        local_folder("owner/name", "--x")
    (tmp_path / "owner/name").mkdir()
    assert str(local_folder("owner/name")) == "owner/name"
    for wrong in ("nowhere", "a/b/c", "owner/na me", str(tmp_path / "none")):
        with pytest.raises(InputError, match="neither a folder nor a hub id"):
            local_folder(wrong)


@pytest.fixture
def no_network(monkeypatch):
    """The hub's name has no address, and the hub's client is not offline yet."""

    def fail(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    if "datasets" in sys.modules:
        config = sys.modules["datasets"].config
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)


def test_without_a_network_the_hub_is_not_asked(no_network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="--model_name_or_path: owner/name is no local folder"):
        resolve_folder("owner/name")
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
    assert capsys.readouterr().err.startswith("note: no network (")
    use_local_copies_offline()
    assert capsys.readouterr().err == ""  # said once


def test_a_proxy_may_know_the_name(no_network, monkeypatch):
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    use_local_copies_offline()
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("version, code", [("4.57.1", 2), ("5.23.0", 0), ("10.0", 0)])
def test_an_old_transformers_is_refused_in_a_line(version, code, monkeypatch, capsys):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(SystemExit) as end:
        run(lambda: None)
    written = capsys.readouterr().err
    assert end.value.code == code and (f"transformers {version} is installed" in written) == bool(
        code
    )
