"""MCAP read back by the `mcap` package alone: every value equal, every time equal to the nanosecond."""

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import polars as pl
import pytest
from mcap.reader import make_reader

from recordings.exporter import export_welds
from recordings.late_additions import add_scores
from recordings.verdict import Score
from tests.recordings.exported_welds import (
    OFFSET_NS,
    cell_times,
    imported_weld,
    jpeg,
    luma,
    make_weld,
    plane,
    sound,
)
from tests.recordings.synthetic_weld import INFOS, KEY, ORIGIN_NS

Messages: TypeAlias = list[tuple[int, int, dict[str, Any], str]]


def read(path: Path) -> dict[str, Messages]:
    """(log time, publish time, body) of every message, by topic."""
    with path.open("rb") as file:
        topics: dict[str, Messages] = {}
        for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            assert schema is not None
            assert (schema.encoding, channel.message_encoding) == ("jsonschema", "json")
            body = json.loads(message.data)
            wanted = set(json.loads(schema.data)["required"])
            assert wanted <= body.keys(), schema.name
            stamp = body["timestamp"]
            assert stamp["sec"] * 10**9 + stamp["nsec"] == message.log_time
            topics.setdefault(channel.topic, []).append((message.log_time, message.publish_time, body, schema.name))
        return topics


def pixels(messages: Messages) -> list[np.ndarray]:
    decoder = av.CodecContext.create("h264", "r")
    data = [av.Packet(b64decode(body["data"])) for _, _, body, _ in messages]
    return [plane(frame) for packet in [*data, None] for frame in decoder.decode(packet)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("mcap")
    weld = make_weld(root / "weld")
    score = Score(
        weld=KEY,
        window=0,
        t0_ns=ORIGIN_NS,
        t1_ns=ORIGIN_NS + 4 * 10**9,
        score=0.1 + 0.2,
        weld_score=1.5,
        p_value=None,
        present=("video",),
        orders={"camera": (1, 2)},
        missing=0,
        sample_digest="ab",
        closed_by_order=9,
    )
    add_scores(weld, [score])
    report = export_welds([weld], root / "out", "mcap")
    assert (report.exported, report.skipped, report.lossy) == ([KEY], [], False)
    return weld, root / "out" / f"{KEY}.mcap"


def test_the_video_decodes_to_the_same_pixels_from_every_keyframe_on(exported):
    weld, path = exported
    messages = read(path)["/camera/video"]
    assert {(name, body["format"]) for *_, body, name in messages} == {("foxglove.CompressedVideo", "h264")}
    assert [log for log, *_ in messages] == (cell_times(weld, "camera") + OFFSET_NS).tolist()
    index = pl.read_parquet(weld / "camera.frames.parquet").filter(pl.col("pts_us").is_not_null())
    assert [publish - OFFSET_NS for _, publish, *_ in messages] == index["t_arrival_ns"].to_list()
    expected = luma(weld / "camera.mp4")
    assert len(messages) == len(expected) == 117
    assert all(np.array_equal(a, b) for a, b in zip(pixels(messages), expected, strict=True))
    keyframes = [i for i, (*_, body, _) in enumerate(messages) if b64decode(body["data"])[4] & 31 == 7]
    assert keyframes[0] == 0
    assert len(keyframes) >= 117 // 15, "every keyframe begins with the parameter sets"
    later = pixels(messages[keyframes[3] :])
    assert all(np.array_equal(a, b) for a, b in zip(later, expected[keyframes[3] :], strict=True))


def test_sensor_rows_come_back_bit_for_bit(exported):
    weld, path = exported
    rows = pl.read_parquet(weld / "process.parquet")
    messages = read(path)["/process"]
    assert [log for log, *_ in messages] == (cell_times(weld, "process") + OFFSET_NS).tolist()
    assert [publish - OFFSET_NS for _, publish, *_ in messages] == rows["t_arrival_ns"].to_list()
    assert [body["row"] for _, _, body, _ in messages] == rows["row"].to_list()
    for channel in INFOS["process"].channels:
        read_back = [float("nan") if body[channel] is None else body[channel] for _, _, body, _ in messages]
        assert np.array_equal(read_back, rows[channel].to_numpy(), equal_nan=True), channel


def test_sound_comes_back_sample_for_sample_with_its_gap(exported):
    weld, path = exported
    messages = read(path)["/microphone/audio"]
    assert {(name, body["format"], body["sample_rate"]) for *_, body, name in messages} == {
        ("foxglove.RawAudio", "pcm-s16", 48_000)
    }
    assert [log for log, *_ in messages] == (cell_times(weld, "microphone") + OFFSET_NS).tolist()
    data = b"".join(b64decode(body["data"]) for _, _, body, _ in messages)
    assert np.array_equal(np.frombuffer(data, "<i2"), sound(weld / "microphone.flac"))
    assert max(np.diff([log for log, *_ in messages])) > 85_000_000, "the silence is no samples"


def test_events_clocks_scores_photos_and_tables_are_in_it(exported):
    weld, path = exported
    topics = read(path)
    events = pl.read_parquet(weld / "events.parquet")
    assert [(b["kind"], b["data"]) for _, _, b, _ in topics["/events"]] == [
        (row["kind"], json.loads(row["data"])) for row in events.iter_rows(named=True)
    ]
    clocks = pl.read_parquet(weld / "clocks.parquet")
    told = [(b["of_stream"], b["offset_ns"], b["drift_ppb"]) for _, _, b, _ in topics["/clocks"]]
    assert told == clocks.select("of_stream", "offset_ns", "drift_ppb").rows()
    (log, _, score, _) = topics["/scores"][0]
    assert (log, score["score"], score["p_value"]) == (ORIGIN_NS + 4 * 10**9 + OFFSET_NS, 0.1 + 0.2, None)
    (_, _, image, name) = topics["/bead"][0]
    assert (name, image["format"], b64decode(image["data"])) == ("foxglove.CompressedImage", "jpeg", jpeg())
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().library == "weld-4m"
        attached = {one.name: one.data for one in reader.iter_attachments()}
        about = {record.name: record.metadata for record in reader.iter_metadata()}["weld"]
        summary = reader.get_summary()
    assert summary is not None
    assert {index.compression for index in summary.chunk_indexes} == {"zstd"}
    for file in ("weld.json", "camera.frames.parquet", "microphone.blocks.parquet", "process.parquet"):
        assert attached[file] == (weld / file).read_bytes()
    assert attached["photos/bead.jpg"] == bytes(range(1, 200)), "a photo that is no picture"
    assert (about["key"], about["class"], int(about["utc_offset_ns"])) == (KEY, "porosity", OFFSET_NS)


def test_32_bit_sound_is_there_in_full_beside_what_viewers_play(tmp_path):
    infos = {**INFOS, "microphone": replace(INFOS["microphone"], dtype="int32")}
    weld = make_weld(tmp_path / "weld", infos=infos)
    report = export_welds([weld], tmp_path / "out", "mcap")
    assert "upper 16 bits" in " ".join(entry["what"] for entry in report.warnings)
    topics = read(tmp_path / "out" / f"{KEY}.mcap")
    full = np.frombuffer(b"".join(b64decode(b["data"]) for _, _, b, _ in topics["/microphone/pcm32"]), "<i4")
    heard = np.frombuffer(b"".join(b64decode(b["data"]) for _, _, b, _ in topics["/microphone/audio"]), "<i2")
    assert np.array_equal(full, sound(weld / "microphone.flac"))
    assert np.array_equal(heard, full >> 16)


def test_imported_mpeg4_becomes_h264_without_loss_and_without_a_date(tmp_path):
    weld = imported_weld(tmp_path)
    report = export_welds([weld], tmp_path / "out", "mcap")
    said = [entry["what"] for entry in report.warnings]
    assert any("encoded anew without loss" in what for what in said)
    assert any("does not know its date" in what for what in said)
    messages = read(tmp_path / "out" / "run" / "03-22-23-0041-06.mcap")["/camera/video"]
    gray = [np.clip(np.rint((one.astype(float) - 16) * 255 / 219), 0, 255) for one in luma(weld / "camera.avi")]
    assert len(gray) == 20
    assert all(np.array_equal(a, b) for a, b in zip(pixels(messages), gray, strict=True))
