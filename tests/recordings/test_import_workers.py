"""A decoder that hangs or crashes costs its weld and nothing else."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from recordings.import_one import ImportOptions
from recordings.import_workers import import_all
from recordings.importer import import_welds
from recordings.verify import verify
from recordings.weld4m_tree import find_welds
from tests.recordings.synthetic_weld4m import make_sensors


class Deadly:
    """Ends the process that receives it, as a decoder that crashes does."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)


def test_a_weld_that_takes_too_long_is_given_up_and_the_next_one_imported(tmp_path):
    source = tmp_path / "source"
    names = [f"03-22-23-004{i}-06" for i in range(3)]
    for name in names:
        make_sensors(source / "run" / name / f"{name}.csv")
    with (source / "run" / names[1] / f"{names[1]}.flac").open("wb") as file:
        file.truncate(2 * 10**9)  # sparse: it gets 2000 s more than the others
    welds = find_welds(source).welds
    outcomes = {
        one.key: one for one in import_all(welds, tmp_path / "welds", ImportOptions(), workers=1, patience_s=-1000.0)
    }
    reasons = [outcomes[f"run/{name}"].reason for name in names]
    assert reasons[1] is None
    assert "took too long" in str(reasons[0])
    assert "took too long" in str(reasons[2])
    assert "is no FLAC" in outcomes[f"run/{names[1]}"].unreadable[0]
    assert [path.parent.name for path in tmp_path.rglob("weld.json")] == [names[1]]
    assert not list(tmp_path.rglob("*.importing"))


def test_a_decoder_that_crashes_is_told_and_the_rest_goes_on(tmp_path):
    source = tmp_path / "source"
    names = [f"03-22-23-004{i}-06" for i in range(4)]
    for name in names:
        make_sensors(source / "run" / name / f"{name}.csv")
    welds = list(find_welds(source).welds)
    welds[1] = replace(welds[1], metadata={"x": Deadly()})
    outcomes = {one.key: one for one in import_all(welds, tmp_path / "welds", ImportOptions(), workers=2)}
    assert len(outcomes) == 4
    assert "crashed" in str(outcomes[f"run/{names[1]}"].reason)
    assert [outcomes[f"run/{names[i]}"].reason for i in (0, 2, 3)] == [None] * 3
    assert len(list(tmp_path.rglob("weld.json"))) == 3


def test_a_killed_import_leaves_nobody_at_work_and_the_next_one_goes_on(tmp_path):
    source, welds = tmp_path / "source", tmp_path / "welds"
    names = [f"03-22-23-{i:04}-06" for i in range(14)]
    for name in names:
        make_sensors(source / "run" / name / f"{name}.csv")
    code = (
        "from pathlib import Path; from recordings.importer import import_welds\n"
        "if __name__ == '__main__':\n"
        "    show = lambda *counts: print(*counts, flush=True)\n"
        f"    import_welds(Path({str(source)!r}), Path({str(welds)!r}), workers=2, progress=show)\n"
    )
    script = tmp_path / "run_import.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 14\n"
        process.kill()
        assert process.stdout.read().count("\n") < 13  # ends when the workers, who share it, have ended
    done = [path.parent.name for path in welds.rglob("weld.json") if not path.parent.name.startswith(".")]
    assert 1 <= len(done) < 14
    report = import_welds(source, welds)
    assert sorted(name.rpartition("/")[2] for name in report.already) == sorted(done)
    assert len(report.already) + len(report.imported) == 14
    assert report.skipped == []
    assert all(one.ok for one in verify(welds, deep=False))
    assert not list(welds.rglob("*.importing"))
