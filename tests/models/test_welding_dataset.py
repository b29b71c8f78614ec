"""Samples in any order are those of the fold, byte for byte, in any process; what cannot be read is named."""

import multiprocessing
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from acquisition.packet import Photo, StreamInfo, VideoFrame
from acquisition.simulated.config import SimulationConfig
from models.bench_dataset import bench_dataset, lines
from models.dataset_samples import Sample, collate
from models.detector_contract import DetectorError
from models.normalisation import Normalisation
from models.splits import make_split, save_split, select
from models.weld_features import found_welds, windows_of
from models.weld_windows import WeldWindows
from models.welding_dataset import WeldingDataset, fit_normalisation
from recordings.cell import load_cell
from recordings.importer import import_welds
from recordings.manifest import StreamRecord
from recordings.random_access import FrameAccess, SoundAccess
from recordings.reader import WeldReader
from recordings.recorder import FinishWeld
from recordings.simulate import plan
from recordings.simulate import write_weld as simulate_weld
from recordings.video_file import decode_luma
from recordings.weld_folder import load_manifest, store_manifest
from sync.alignment import cut
from sync.clock import ClockTable
from sync.sample import SampleSpec, Weld4MSample
from sync.series import make_series
from tests.models.welds import SPEC, weld_packets, write_weld
from tests.recordings import handmade


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six welds of six sessions; two lack a modality, one loses it half-way, one has a bad class."""
    root = tmp_path_factory.mktemp("welds")
    changes: list[dict[str, Any]] = [{}, {"without": ("mic",)}, {"lose": {"cam": 2.0}}, {"photos": 0}, {}, {}]
    for n, change in enumerate(changes):
        packets = weld_packets(n, key=f"w{n}", arc_s=3.3 + 0.4 * n, **change)
        write_weld(root / f"w{n}", packets, session=f"s{n}", label=3 if n == 4 else 0)
    return root


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weld of the simulated cell, as `simulate` writes it: changing clocks, H.264, blocks of sound."""
    (order,) = plan(1, ["good"], (0.5, 0.5), 5, 20)
    config = SimulationConfig(height=200, width=320, photo_height=120, photo_width=160)
    cell = replace(load_cell(None), simulation=config)
    return simulate_weld(order, cell, tmp_path_factory.mktemp("simulated"))


def check_windows(folder: Path, spec: SampleSpec) -> int:
    """Compare every window in a random order with those of the fold; returns how many there are."""
    _, windows, photos = windows_of(folder, spec)
    weld = WeldWindows(folder, spec)
    order = random.Random(1).sample(range(len(windows)), len(windows))
    for i in order:
        made = weld.window(i)
        assert made.digest() == windows[i].digest()
        assert made.missing == windows[i].missing
        assert made.closed_by_order == windows[i].closed_by_order
        assert made.closed_by_arrival_ns == windows[i].closed_by_arrival_ns
    assert len(weld) == len(windows)
    assert weld.photos().digest() == photos.digest()
    weld.close()
    return len(windows)


def test_windows_equal_those_of_the_fold(data: Path, simulated: Path) -> None:
    assert [check_windows(data / f"w{n}", SPEC) for n in range(6)] == [4, 4, 5, 5, 5, 6]
    assert check_windows(simulated, SampleSpec(hop_s=2.5)) > 4
    resampled = replace(SampleSpec(), window_s=2.0, hop_s=3.0, audio_rate_hz=11_025, frames=5, max_gap_periods=1.5)
    assert check_windows(simulated, resampled) > 3


@pytest.mark.parametrize(
    "world",
    [
        handmade.World(lost={"camera": (50, 51, 52), "microphone": range(48, 52), "sensors": range(110, 125)}),
        handmade.World(silent={"camera": (2.5, 4.0)}, restarts={"microphone": 2.7, "sensors": 2.4}),
        handmade.World(seconds=9.0, arcs=((2.0, 3.0), (4.2, 5.5))),
    ],
    ids=["losses", "silence and restarts", "two welds"],
)
def test_windows_equal_those_of_the_fold_whatever_happened(world: handmade.World, tmp_path: Path) -> None:
    run = handmade.Run(handmade.cell(), tmp_path).feed(world.packets())
    run.take(run.ingest.finish(run.published[-1].t_arrival_ns))
    for key in list(run.core.welds):
        run.core.handle(FinishWeld(key=key))
    assert run.problems == []
    folders = [w.folder for w in found_welds(tmp_path)]
    assert len(folders) == len(world.arcs)
    for folder in folders:
        assert check_windows(folder, handmade.SPEC) > 2
        assert check_windows(folder, replace(handmade.SPEC, audio_rate_hz=1500, hop_s=0.3)) > 2


def test_a_real_imported_weld(real_weld: Path, tmp_path: Path) -> None:
    for file in real_weld.glob("overlap_03-22-23-0041-06.*"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / file.name).write_bytes(file.read_bytes())
    import_welds(tmp_path / "source", tmp_path / "welds")
    (weld,) = found_welds(tmp_path / "welds")
    assert check_windows(weld.folder, SampleSpec(hop_s=3.0)) > 3


def test_frames_and_sound_are_found_without_decoding_what_lies_before(simulated: Path) -> None:
    reader = WeldReader(simulated)
    frames = [p.payload.pixels for p in reader.pictures("camera") if isinstance(p.payload, VideoFrame)]
    pts_us = reader.frames("camera").filter(reader.frames("camera")["pts_us"].is_not_null())["pts_us"].to_list()
    access = FrameAccess(simulated / "camera.mp4", reader.manifest.streams["camera"], pts_us)
    for numbers in ([200, 3, 4, 201], [len(frames) - 1], [0], [15, 14, 16]):
        found = access.read(numbers)
        assert sorted(found) == sorted(numbers)
        assert all(np.array_equal(found[n], frames[n]) for n in numbers)
    record = reader.manifest.streams["camera"]
    moved = FrameAccess(simulated / "camera.mp4", record, [t + 1 for t in pts_us])
    with pytest.raises(Exception, match=r"frame 7 of \d+ cannot be read"):
        moved.read([7])
    sound = SoundAccess(simulated / "microphone.flac", reader.manifest.streams["microphone"])
    whole = sound.read(0, reader.manifest.streams["microphone"].items)
    for start, stop in ((100_001, 100_005), (0, 1), (len(whole) - 3, len(whole)), (4607, 9300), (50, 50)):
        assert np.array_equal(sound.read(start, stop), whole[start:stop])
    with pytest.raises(Exception, match="the sound ends before"):
        sound.read(5, len(whole) + 1)
    access.close()
    sound.close()


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("cut_at", [1.0, 0.7])
def test_frames_of_an_imported_video(b_frames: int, cut_at: float, tmp_path: Path) -> None:
    path, random_bytes = tmp_path / "camera.avi", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=31, width=64, height=64, pix_fmt="yuv420p")
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, b_frames
        for n in range(60):
            pixels = np.roll(random_bytes.integers(0, 60, (96, 64), dtype=np.uint8), n, axis=1) + np.uint8(2 * n)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: round(cut_at * path.stat().st_size)])
    info = StreamInfo(name="camera", modality="video", rate_hz=31, height=64, width=64)
    decoded = list(decode_luma(path, info, limited_range=True))
    assert len(decoded) > 5
    record = StreamRecord(info=info, files=[path.name], codec="mpeg4", limited_range=True, items=len(decoded))
    access = FrameAccess(path, record, [pts_us for pts_us, _ in decoded])
    for seed in range(8):
        numbers = random.Random(seed).sample(range(len(decoded)), 3)
        assert all(np.array_equal(pixels, decoded[n][1]) for n, pixels in access.read(numbers).items())
    access.close()


def same(a: Sample, b: Sample) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) and v.dtype == b[k].dtype if isinstance(v, torch.Tensor) else v == b[k]
        for k, v in a.items()
    )


def test_samples_hold_what_the_fold_gives(data: Path, tmp_path: Path) -> None:
    dataset = WeldingDataset(data, SPEC)
    expected: list[tuple[Weld4MSample, Weld4MSample, str]] = []
    for weld in found_welds(data):
        manifest, windows, photos = windows_of(weld.folder, SPEC)
        expected += [(w, photos, manifest.session) for w in windows]
    assert len(dataset) == len(expected) == len(dataset.labels)
    for i in random.Random(2).sample(range(len(dataset)), len(dataset)):
        window, photos, session = expected[i]
        sample = dataset[i]
        for name in ("video", "audio", "sensors"):
            for part in (name, f"{name}_mask"):
                assert sample[part].numpy().tobytes() == getattr(window, part).tobytes()
        assert sample["post_images"].numpy().tobytes() == photos.post_images.tobytes()
        assert sample["post_images_mask"].tolist() == photos.post_images_mask.tolist()
        stamps = (window.t0_ns, window.duration_ns, window.index, window.label)
        assert tuple(int(sample[k]) for k in ("t0_ns", "duration_ns", "index", "label")) == stamps
        assert (sample["key"], sample["session"], dataset.labels[i]) == (window.weld, session, window.label)
    assert not WeldingDataset(data, SPEC, photos=False)[0]["post_images_mask"].any()
    cached = WeldingDataset(data, SPEC, cache=tmp_path, open_welds=1)
    assert all(same(cached[i], dataset[i]) for i in (0, 20, 3, len(dataset) - 1))
    assert len(list(tmp_path.iterdir())) == len({dataset[i]["key"] for i in (0, 20, 3, len(dataset) - 1)})
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    dataset.close()


def test_whole_welds_and_whole_arcs(data: Path, tmp_path: Path) -> None:
    windows, welds = WeldingDataset(data, SPEC), WeldingDataset(data, SPEC, mode="weld")
    assert len(welds) == 6
    stacked = collate([windows[i] for i in range(4)])
    whole = welds[0]
    assert torch.equal(whole["video"], stacked["video"])
    assert torch.equal(whole["sensors_mask"], stacked["sensors_mask"])
    batch = collate([welds[0], welds[5]])
    assert batch["video"].shape == (2, 6, 8, 1, 24, 40)
    assert batch["windows_mask"].tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert not batch["audio_mask"][0, 4:].any()

    spec = replace(SPEC, window_s=6.0, frames=12)
    arcs = WeldingDataset(data, spec, mode="arc")
    for number in (0, 2, 5):
        sample, reader = arcs[number], WeldReader(data / f"w{number}")
        manifest, clocks = reader.manifest, ClockTable()
        assert manifest.arc_on_ns is not None
        assert manifest.arc_off_ns is not None
        series = {n: s for n, i in reader.infos.items() if (s := make_series(i, spec)) is not None}
        for packet in reader.packets():
            if packet.stream in series:
                series[packet.stream].append(packet, clocks.cell_times_ns(reader.infos[packet.stream], packet))
        true = cut(series.values(), manifest.arc_on_ns, manifest.arc_off_ns, spec, weld=manifest.key, index=0)
        assert np.array_equal(sample["video"], true.video)
        assert np.array_equal(sample["sensors"], true.sensors)
        sounding = round((manifest.arc_off_ns - manifest.arc_on_ns) * spec.audio_rate_hz / 1e9)
        assert np.array_equal(sample["audio"][:, :sounding], true.audio[:, :sounding])
        assert sample["audio_mask"].sum() == sounding
        assert int(sample["duration_ns"]) == manifest.arc_off_ns - manifest.arc_on_ns
    cached = WeldingDataset(data, spec, mode="arc", cache=tmp_path)
    assert all(same(cached[i], arcs[i]) for i in (1, 4, 1))
    with pytest.raises(DetectorError, match=r"weld w0: its arc of 3.30 s is longer than the 2 s of the spec"):
        WeldingDataset(data, SPEC, mode="arc")


def noisy(sample: Sample, generator: np.random.Generator) -> Sample:
    return {**sample, "noise": torch.from_numpy(generator.normal(size=3))}


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(data: Path, context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} on this system")
    dataset = WeldingDataset(data, SPEC, transform=noisy, seed=7)
    dataset[0]  # files are open when the workers start

    def loader(workers: int) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=7,
            sampler=random.Random(3).sample(range(len(dataset)), len(dataset)),
            num_workers=workers,
            multiprocessing_context=context if workers else None,
            persistent_workers=workers > 0,
            collate_fn=collate,
        )

    alone, helped = loader(0), loader(1 if context == "spawn" else 2)
    noise = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        pairs = list(zip(iterated(alone), iterated(helped), strict=True))
        assert len(pairs) == 5
        assert all(same(a, b) for a, b in pairs)
        noise.append({float(v) for a, _ in pairs for v in a["noise"].flatten()})
    assert not noise[0] & noise[1]
    del helped


def iterated(loader: DataLoader[Sample]) -> Iterator[Sample]:
    yield from loader


def test_little_is_kept_and_little_is_sent(data: Path) -> None:
    dataset = WeldingDataset(data, SPEC, open_welds=2, memory_mb=0)
    for i in range(0, len(dataset), 3):
        dataset[i]
    assert len(dataset._folded) == 2
    roomy = WeldingDataset(data, SPEC, open_welds=1)
    for i in range(0, len(roomy), 3):
        roomy[i]
    assert len(roomy._folded) == 6
    assert sum(w._frames is not None and w._frames._container is not None for w in roomy._folded.values()) == 1
    sent = ForkingPickler.dumps(roomy)
    resource_sharer.stop()
    assert len(sent) < 600 + 200 * len(roomy.entries)


def test_mixed_batches() -> None:
    def sample(dtype: torch.dtype, there: bool) -> Sample:
        sound = torch.full((1, 4), 3, dtype=dtype)
        return {"audio": sound, "audio_mask": torch.full((4,), there), "key": str(dtype), "label": torch.tensor(1)}

    batch = collate([sample(torch.int16, True), sample(torch.int32, False)])
    assert batch["audio"].tolist() == [[[3 << 16] * 4], [[3] * 4]]
    assert batch["audio"].dtype == torch.int32
    assert batch["audio_mask"].tolist() == [[True] * 4, [False] * 4]
    assert batch["key"] == ["torch.int16", "torch.int32"]
    assert batch["label"].tolist() == [1, 1]


def test_normalisation_is_that_of_the_training_part(data: Path, tmp_path: Path) -> None:
    welds = found_welds(data)
    split = make_split(welds, "session-disjoint", seed=1)
    dataset = WeldingDataset(welds, SPEC, split=split)
    assert {e.key for e in dataset.entries} == set(split.parts["train"])
    fitted = fit_normalisation(dataset)
    fitted.save(tmp_path / "normalisation.json")
    assert Normalisation.load(tmp_path / "normalisation.json") == fitted
    samples = [windows_of(w.folder, SPEC) for w in select(split, welds, "train")]
    windows = [window for _, several, _ in samples for window in several]
    for channel in range(6):
        known = np.concatenate([w.sensors[w.sensors_mask[:, channel], channel] for w in windows])
        assert fitted.channels["sensors"][channel].count == len(known)
        assert fitted.channels["sensors"][channel].mean == pytest.approx(known.mean(), rel=1e-9)
        assert fitted.channels["sensors"][channel].sd == pytest.approx(known.std(), rel=1e-6)
    sound = np.concatenate([w.audio[0, w.audio_mask] for w in windows]) / 32768
    assert fitted.channels["audio"][0].sd == pytest.approx(sound.std(), rel=1e-9)

    test = WeldingDataset(welds, SPEC, split=split, part="test", normalise=fitted)
    plain = WeldingDataset(welds, SPEC, split=split, part="test")
    level = fitted.channels["sensors"][3]
    for i in range(len(test)):
        made, raw = test[i], plain[i]
        there = raw["sensors_mask"][:, 3]
        expected = (raw["sensors"][there, 3] - level.mean) / level.sd
        assert torch.allclose(made["sensors"][there, 3], expected.float())
        for name in ("video", "audio", "sensors", "post_images"):
            assert made[name].dtype == torch.float32
        assert not made["audio"][:, ~made["audio_mask"]].any()
        assert not made["video"][~made["video_mask"]].any()
    for bad, line in (
        (plain, "fitted on the train part of a split, and this is 'test'"),
        (WeldingDataset(welds, SPEC), "and this is 'all'"),
        (WeldingDataset(welds, SPEC, split=split, normalise=fitted), "leave normalise and transform out"),
    ):
        with pytest.raises(DetectorError, match=line):
            fit_normalisation(bad)
    (tmp_path / "normalisation.json").write_text("{}")
    with pytest.raises(DetectorError, match="fit the normalisation again"):
        Normalisation.load(tmp_path / "normalisation.json")


def test_welds_that_cannot_be_read(tmp_path: Path) -> None:
    for n in range(5):
        write_weld(tmp_path / f"w{n}", weld_packets(n, key=f"w{n % 4}", arc_s=2.0), session=f"s{n}")
    (tmp_path / "w1" / "weld.json").write_text("{")
    (tmp_path / "w2" / "cam.mp4").unlink()
    with pytest.raises(DetectorError, match="w1"):
        WeldingDataset(tmp_path, SPEC)
    dataset = WeldingDataset(tmp_path, SPEC, on_error="leave out")
    assert [e.key for e in dataset.entries] == ["w0", "w3"]
    reasons = dict(dataset.left_out)
    assert "cam.mp4 is not there" in reasons["w2"]
    assert "two welds of one key" in reasons["w0"]
    assert str(tmp_path / "w1") in reasons
    stereo = replace(SPEC, audio_channels=2)
    with pytest.raises(DetectorError, match="'mic' has 1 sound channels, the spec 2"):
        WeldingDataset([w for w in found_welds(tmp_path, lambda *_: None) if w.manifest.key == "w3"], stereo)
    with pytest.raises(DetectorError, match="none of 4 welds gives a sample"):
        WeldingDataset(tmp_path, stereo, on_error="leave out")

    (manifest := load_manifest(tmp_path / "w3")).arc_off_ns = 10**18
    store_manifest(tmp_path / "w3", manifest)
    with pytest.raises(DetectorError, match=r"weld w3: an arc of 9.99999e\+08 s is none"):
        WeldingDataset(tmp_path / "w3", SPEC)
    damaged = tmp_path / "w3" / "cam.mp4"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(DetectorError, match=r"^weld w3: .*cam\.mp4"):
        dataset[len(dataset) - 1]
    dataset[0]


def test_a_photo_that_cannot_be_decoded_is_masked(tmp_path: Path) -> None:
    packets = [
        replace(p, payload=replace(p.payload, data=b"no picture"))
        if isinstance(p.payload, Photo) and p.payload.name == "0.png"
        else p
        for p in weld_packets(1, key="w", arc_s=2.0)
    ]
    write_weld(tmp_path / "w", packets)
    assert WeldingDataset(tmp_path, SPEC)[0]["post_images_mask"].tolist() == [False, True]


def test_the_bench_measures_samples_that_are_right(data: Path) -> None:
    found = bench_dataset(data, samples=4, plain_samples=2, workers=(0,))
    (size,) = found["sizes"]
    assert size["equal"]
    rates = size["per_s"]["0 workers"]
    assert list(rates) == ["plain", "dataset", "dataset, again", "cached", "cached, again"]
    assert all(rate > 0 for rate in rates.values())
    assert len(list(lines(found))) == 2 + len(rates)
    with pytest.raises(DetectorError, match="windows are too few"):
        bench_dataset(data, samples=1000)


def test_the_example_of_the_docs_runs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "dataset.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    split = make_split(found_welds(data), "session-disjoint", seed=1)
    save_split(split, tmp_path / "split.json")
    shutil.copytree(data, tmp_path / "welds")
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(example, made)
    assert {entry.key for entry in made["test"].entries} == set(split.parts["test"])
    assert (tmp_path / "runs" / "mine" / "normalisation.json").is_file()
