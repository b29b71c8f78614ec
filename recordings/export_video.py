"""Encoded frames for other containers: recorded H.264 as it is, anything else encoded without loss."""

from collections.abc import Iterator
from dataclasses import replace

from av.bitstream import BitStreamFilterContext

from recordings.reader import WeldReader
from recordings.video_encoder import CODEC, CODEC_LOSSLESS, EncodedFrame, VideoEncoder
from recordings.video_file import open_video, whole_packets
from recordings.weld_folder import WeldError, member


def is_h264(reader: WeldReader, stream: str) -> bool:
    """Tell whether a stream's frames go over byte for byte."""
    return reader.manifest.streams[stream].codec in (CODEC, CODEC_LOSSLESS)


def annexb_frames(reader: WeldReader, stream: str) -> Iterator[EncodedFrame]:
    """Give the frames of a video stream by order: H.264, Annex B, one access unit each, no B-frames.

    Keyframes begin with the parameter sets, so that a decoder can start at any of them. What is no H.264 (imported
    video) is encoded with qp 0: the decoded gray values are those of `WeldReader.pictures`.

    Raises:
        WeldError: The file is damaged, or lacks frames of the index.
    """
    yield from _copied(reader, stream) if is_h264(reader, stream) else _encoded(reader, stream)


def _copied(reader: WeldReader, stream: str) -> Iterator[EncodedFrame]:
    """Give the frames as recorded; only what marks their beginnings changes."""
    rows = {row["pts_us"]: row for row in reader.frames(stream).to_dicts() if row["pts_us"] is not None}
    if not rows:
        return
    path, count = member(reader.folder, reader.manifest.streams[stream].files[0]), 0
    with open_video(path) as container:
        if not container.streams.video:
            raise WeldError(f"{path}: holds no video; restore the file from a copy")
        source = container.streams.video[0]
        to_annexb = BitStreamFilterContext("h264_mp4toannexb", source)
        for packet in whole_packets(path, container):
            row = rows.get(round((packet.pts or 0) * packet.time_base * 1_000_000))
            for unit in to_annexb.filter(packet):
                if row is not None:
                    count += 1
                    yield EncodedFrame(
                        stream=stream,
                        **{name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")},
                        pts_us=row["pts_us"],
                        keyframe=bool(unit.is_keyframe),
                        data=bytes(unit),
                    )
    if count != len(rows):
        raise WeldError(f"{path}: {count} of {len(rows)} frames can be read; run verify, restore it from a copy")


def _encoded(reader: WeldReader, stream: str) -> Iterator[EncodedFrame]:
    encoder = VideoEncoder(reader.infos[stream], lossless=True)
    for packet in reader.pictures(stream):
        for frame in encoder.encode(packet):
            yield replace(frame, data=encoder.extradata + frame.data) if frame.keyframe else frame
