"""`export` on the command line."""

import json

from typer.testing import CliRunner

from recordings.export_command import commands
from tests.recordings.exported_welds import make_weld
from tests.recordings.synthetic_weld import KEY


def test_it_exports_tells_and_exits_by_what_was_lost(tmp_path):
    make_weld(tmp_path / "welds" / "w")
    (tmp_path / "welds" / "bad").mkdir()
    (tmp_path / "welds" / "bad" / "weld.json").write_text("{}")
    out = str(tmp_path / "out")
    done = CliRunner().invoke(commands, [str(tmp_path / "welds" / "w"), out, "--format", "mcap", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["exported"]) == (0, [KEY])
    lossy = CliRunner().invoke(commands, [str(tmp_path / "welds"), out, "--format", "mcap"])
    assert lossy.exit_code == 3
    assert "0 exported, 1 there already, 1 skipped" in lossy.stdout
    assert CliRunner().invoke(commands, [out, "--format", "mcap"]).exit_code == 2
    assert CliRunner().invoke(commands, [out, out, "--format", "zip"]).exit_code == 2
