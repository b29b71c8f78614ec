"""The benches of recording and replay run, on a short weld, and say what they measured."""

import pytest

from recordings import bench_record, bench_replay


def test_replay_is_measured_beside_bare_decoding(monkeypatch):
    monkeypatch.delenv("WELD4M_REAL_WELD", raising=False)
    result = bench_replay.bench_replay(arc_s=4.0, rounds=1, frame=(120, 192))
    assert set(result["welds"]) == {"h264", "lossless", "mpeg4"}
    for row in result["welds"].values():
        assert row["windows"] > 0
        assert row["frames"] > 100
        assert 0 < row["replay_per_cpu_x"] < row["decode_per_cpu_x"]
    said = list(bench_replay.lines(result))
    assert len(said) == 6
    assert said[-1].strip().startswith("mpeg4")


def test_recording_is_measured_beside_bare_encoding():
    result = bench_record.bench_record(arc_s=2.0, rounds=1, frame=(120, 192))
    for row in result["codings"].values():
        assert row["bare_s"] > 0
        assert row["ratio"] == pytest.approx(row["record_s"] / row["bare_s"], rel=0.05)
    assert "goal: 1.2" in list(bench_record.lines(result))[-1]
