"""Latencies from weld folders: found, written into the cell file, applied, and gone from the next weld."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recordings.bench_latency import bench_latency
from recordings.cell import Cell, load_cell
from recordings.latency import LatencyReport, measure_latency
from recordings.verify import verify
from recordings.weld_folder import WeldError, load_manifest, store_manifest
from sync.latency import Residual, calibrate_latency
from tests.recordings.cells import Recorded, record_weld, small_cell

SEEDS = (5, 6, 7)


def odd_cell() -> Cell:
    """A small cell whose arc is not struck at a whole second."""
    return small_cell(video="h264", idle_s=3.37)


def true_latency_ms(recorded: Recorded, stream: str) -> float:
    """What the clocks of a stream are late at best, against the sensors'; exposure is part of it."""
    shortest_ms = {name: float(d["latency_ms"]["shortest"]) for name, d in recorded.weld.truth["devices"].items()}
    exposure_ms = 5.0 if stream == "camera" else 0.0
    return shortest_ms[stream] + exposure_ms - shortest_ms["sensors"]


@pytest.fixture(scope="module")
def welds(tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    root = tmp_path_factory.mktemp("welds")
    return [record_weld(root / str(seed), odd_cell(), seed=seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def report(welds: list[Recorded]) -> LatencyReport:
    return measure_latency([weld.folder for weld in welds])


def test_latencies_are_found(welds: list[Recorded], report: LatencyReport) -> None:
    assert (report.cell, set(report.streams), report.problems) == ("simulated", {"camera", "microphone"}, [])
    for stream, latency in report.streams.items():
        assert latency.latency_ms == pytest.approx(true_latency_ms(welds[0], stream), abs=3 * latency.sigma_ms)
        assert (latency.welds, latency.rejected, latency.constant) == (3, 0, True)
        assert latency.sigma_ms < 12
    assert [set(weld) for weld in report.welds.values()] == [{"camera", "microphone"}] * 3
    assert [line.split()[0] for line in report.lines()] == ["camera:", "microphone:"]
    assert report.as_json()["welds"][0]["path"] == str(welds[0].folder)


def test_a_written_latency_is_applied_and_measured_again(
    tmp_path: Path, welds: list[Recorded], report: LatencyReport
) -> None:
    path = tmp_path / "cell.toml"
    shutil.copy(load_cell(None).path, path)
    (line,) = report.write(path)
    assert line.startswith(f"{path}: latency_ms of camera")
    assert "holds already" in report.write(path)[0]
    cell = replace(odd_cell(), streams=load_cell(path).streams)
    recorded = record_weld(tmp_path / "again", cell, seed=SEEDS[0])
    manifest = load_manifest(recorded.folder)
    for stream, latency in report.streams.items():
        assert manifest.streams[stream].info.latency_ns == pytest.approx(latency.latency_ms * 1e6, abs=1000)
    again = measure_latency([recorded.folder])
    before = measure_latency([welds[0].folder])
    for stream in report.streams:
        # Edges are judged by where they fall between samples, so the totals agree to a fraction of a sample only.
        total = again.streams[stream].latency_ms
        assert total == pytest.approx(before.streams[stream].latency_ms, abs=3.0)
    (checked,) = verify(recorded.folder)
    for stream in report.streams:
        residual = checked.sync[stream]
        assert residual["offset_ms"] is not None
        assert residual["sigma_ms"] is not None
        assert abs(residual["offset_ms"]) < 2.5 * residual["sigma_ms"]


def test_welds_that_differ_are_told_apart_and_not_written(tmp_path: Path, report: LatencyReport) -> None:
    folders = [tmp_path / str(n) for n in range(5)]
    offsets = [{"microphone": Residual(offset_ms=-1300.0 + 200 * n, sigma_ms=5.0)} for n in range(5)]
    streams = {"microphone": calibrate_latency([weld["microphone"] for weld in offsets])}
    torn = replace(report, streams=streams, welds=dict(zip(folders, offsets, strict=True)))
    lines = torn.lines()
    assert "no constant latency; welds differ by 316 ms (5 welds): correct each weld on its own" in lines[0]
    assert lines[1] == f"  {folders[0]}: microphone -1300.0 ms +- 9.8"
    assert len(lines) == 6
    assert "not changed" in torn.write(tmp_path / "cell.toml")[0]
    assert not (tmp_path / "cell.toml").exists()


def test_welds_without_an_answer_are_named(tmp_path: Path, welds: list[Recorded]) -> None:
    other = tmp_path / "other"
    shutil.copytree(welds[0].folder, other)
    manifest = load_manifest(other)
    manifest.streams.pop("sensors")
    store_manifest(other, manifest)
    report = measure_latency([other, welds[1].folder])
    assert report.problems == [f"{other}: no stream shows the arc beside the sensors; it was left out"]
    with pytest.raises(WeldError, match="none of 1 welds says anything"):
        measure_latency([other])
    manifest.cell = "south"
    store_manifest(other, manifest)
    with pytest.raises(WeldError, match=r"several cells \(simulated, south\)"):
        measure_latency([other, welds[1].folder])


def test_the_bench_finds_what_it_injects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WELD4M_REAL_WELD", raising=False)
    figures = bench_latency(welds=3, seed=1)
    assert set(figures["streams"]) == {"camera", "microphone"}
    for stream in figures["streams"].values():
        assert stream["found"] == 1.0
        assert stream["error_ms"]["p100"] < stream["tolerance_ms"]
        assert set(stream["found_by_class"]) == {"good", "burnthrough", "porosity"}
