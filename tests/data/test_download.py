"""Nothing is downloaded unasked, and nothing over http."""

import io
import urllib.request

import pytest
import torchvision

from prunus.cli import run_flags
from prunus.core import DataError, may_download, permitting_downloads
from prunus.data import DATASETS, load_data
from prunus.data.download import only_https
from tests.cli.command import prunus_


def test_no_one_is_asked_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    def fetched(root, download):
        raise AssertionError("nobody has asked for it")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetched)
    with pytest.raises(DataError, match="downloaded only if you ask for it"):
        load_data("mnist", data_root=tmp_path)
    data = ("--model", "lenet5", "--data", "mnist", "--data-root", tmp_path)
    assert prunus_("train", *data, "--out", tmp_path / "run") == 2
    assert "(--download, download=True): get it from https://" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("way", "wanted"), [("--download", True), ("y", True), ("n", False)])
def test_it_is_asked_for_by_a_flag_or_at_the_prompt(way, wanted, tmp_path, monkeypatch, capsys):
    asked = []

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def fetched(root, download):
        asked.append(root)
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetched)
    flags = [way] if way.startswith("--") else []
    if not flags:
        monkeypatch.setattr("sys.stdin", Terminal(f"{way}\n"))
        monkeypatch.setattr("sys.stderr", Terminal())
        assert run_flags.sys.stderr.isatty()
    data = ("--model", "lenet5", "--data", "mnist", "--data-root", tmp_path)
    assert prunus_("train", *data, *flags, "--out", tmp_path / "run") == 2
    assert bool(asked) == wanted


def test_permission_ends_with_its_block():
    with permitting_downloads():
        assert may_download("anything")
    assert not may_download("anything")


def test_every_address_is_https_and_what_is_not_is_opened_so():
    assert not any(DATASETS[name].get.startswith("http:") for name in DATASETS)
    opened = []

    class Fake(urllib.request.HTTPSHandler):
        def https_open(self, req):
            opened.append(req.full_url)
            answer = urllib.request.addinfourl(io.BytesIO(b"data"), {}, req.full_url, 200)
            answer.msg = "OK"
            return answer

    before = urllib.request._opener
    with only_https():
        urllib.request._opener.add_handler(Fake())
        for each in urllib.request._opener.handle_open["https"]:
            if not isinstance(each, Fake):
                urllib.request._opener.handle_open["https"].remove(each)
        for split in torchvision.datasets.SVHN.split_list.values():
            assert urllib.request.urlopen(split[0]).read() == b"data"
    assert urllib.request._opener is before
    assert opened
    assert all(address.startswith("https://ufldl.stanford.edu/") for address in opened)
