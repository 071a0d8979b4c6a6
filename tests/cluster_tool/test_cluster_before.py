"""The host is put back as it was before the node came up."""

from pathlib import Path

import pytest

from e2e.cluster import before


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of the test's own: its kernel settings below `sys`, and the folders `missing` and `there`."""
    for name, value in (("net/ipv4/ip_forward", "0\n"), ("vm/panic_on_oom", "1\n")):
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True)
        file.write_text(value)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("precious")
    monkeypatch.setattr(before, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(before, "_FOLDERS", (str(tmp_path / "missing"), str(tmp_path / "there")))
    return tmp_path


def come_up(host: Path) -> None:
    """What a node does to its host."""
    (host / "sys/net/ipv4/ip_forward").write_text("1\n")
    (host / "sys/vm/panic_on_oom").write_text("0\n")
    (host / "missing" / "deep").mkdir(parents=True, exist_ok=True)
    (host / "missing" / "deep" / "socket").write_text("")
    (host / "there" / "more").write_text("of the node")


def test_settings_and_folders_are_put_back(host: Path) -> None:
    record = host / "before.json"
    before.record(record)
    come_up(host)
    # A start that finds the node up learns nothing of the host as it was.
    before.record(record)
    before.restore(record)
    assert (host / "sys/net/ipv4/ip_forward").read_text().strip() == "0"
    assert (host / "sys/vm/panic_on_oom").read_text().strip() == "1"
    assert not (host / "missing").exists()
    assert (host / "there" / "file").read_text() == "precious"


@pytest.mark.parametrize("content", [None, "", "{}", '{"settings": {"vm/panic_on_oom": "1"}, "missing'])
def test_without_a_whole_record_nothing_is_touched(host: Path, content: str | None) -> None:
    record = host / "before.json"
    if content is not None:
        record.write_text(content)
    come_up(host)
    before.restore(record)
    assert (host / "sys/vm/panic_on_oom").read_text() == "0\n"
    assert (host / "missing/deep/socket").exists()


def test_a_record_can_name_nothing_but_what_a_node_changes(host: Path) -> None:
    (host / "sys/kernel").mkdir()
    (host / "sys/kernel/hostname").write_text("mine")
    (host / "elsewhere").mkdir()
    record = host / "before.json"
    record.write_text(f'{{"settings": {{"kernel/hostname": "x"}}, "missing": ["{host}/elsewhere"]}}')
    before.restore(record)
    assert (host / "sys/kernel/hostname").read_text() == "mine"
    assert (host / "elsewhere").exists()
