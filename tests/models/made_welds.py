"""Manifests of welds that were never recorded, for the tests of splits: nothing of them lies on a disk."""

from pathlib import Path
from typing import Any

import numpy as np

from acquisition.packet import StreamInfo
from models.weld_features import FoundWeld
from recordings.manifest import LabelEntry, Manifest, StreamRecord, UtcPair
from recordings.verdict import CLASSES

NOW = "2026-01-01T00:00:00+00:00"
COUNTS = (819, 480, 320, 340, 480, 160, 160, 320, 160, 320, 320, 161)
"""Welds of each class in Weld-4M; they add up to 4040."""


def made_weld(
    key: str,
    session: str,
    label: int,
    *,
    folder: str = "",
    sound: str | None = None,
    photo: str | None = None,
    day: int = 0,
    **metadata: Any,
) -> FoundWeld:
    """Make a weld with a microphone, and a photo if `photo` is its digest; equal `sound` is equal content."""
    info = StreamInfo(name="mic", modality="audio", rate_hz=16000, channels=("mono",), dtype="int16")
    streams = {"mic": StreamRecord(info=info, files=["mic.flac"], codec="flac", items=10)}
    files = {"mic.flac": sound or f"sound of {key}"}
    if photo is not None:
        bead = StreamInfo(name="bead", modality="post_images", rate_hz=0)
        streams["bead"] = StreamRecord(info=bead, files=["photos/1.jpg"], codec="files", items=1)
        files["photos/1.jpg"] = photo
    manifest = Manifest(
        key=key,
        cell="bench",
        session=session,
        state="finalised",
        streams=streams,
        files=files,
        utc=[UtcPair(monotonic_ns=0, utc_ns=day * 86_400 * 10**9, uncertainty_ns=1)],
        first_order=1,
        origin_ns=0,
        labels=[LabelEntry(label=label, by="test", utc=NOW)],
        metadata=metadata,
    )
    return FoundWeld(folder=Path(folder or f"/somewhere/{key}"), manifest=manifest, digest=f"manifest of {key}")


def weld4m_shaped(seed: int = 1) -> list[FoundWeld]:
    """Make 4040 welds in 236 folders of one class each: TRAIN has 576 good ones, VAL and TEST 1732 each.

    24 folders lie in one part as a whole; all others are shared out weld by weld.
    """
    rng = np.random.default_rng(seed)
    folders = np.maximum(1, np.round(np.array(COUNTS) / sum(COUNTS) * 236).astype(int))
    folders[0] += 236 - folders.sum()
    sessions = [f"{CLASSES[c]}_{i}" for c, n in enumerate(folders) for i in range(n)]
    first = np.concatenate([[0], np.cumsum(folders)])
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS).tolist()
    session_of = [sessions[first[c] + n % folders[c]] for n, c in enumerate(labels)]
    whole = {
        s: ("VAL", "TEST")[i % 2] for i, s in enumerate(sorted(s for s in sessions if not s.startswith("good"))[:24])
    }
    good = rng.permutation(COUNTS[0]).tolist()
    part = dict.fromkeys(good[:576], "TRAIN")
    part |= {n: whole[s] for n, s in enumerate(session_of) if s in whole}
    val = 1732 - sum(p == "VAL" for p in part.values())
    rest = rng.permutation([n for n in range(len(labels)) if n not in part]).tolist()
    part |= {n: "VAL" if i < val else "TEST" for i, n in enumerate(rest)}
    return [
        made_weld(
            f"{session_of[n]}/01-01-23-{n:04d}-{c:02d}",
            session_of[n],
            c,
            split=part[n],
            category=CLASSES[c],
            current_a=170.0 + n % 3,
        )
        for n, c in enumerate(labels)
    ]
