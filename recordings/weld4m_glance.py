"""What a dry run looks at: every sensor row, and of video, sound and photos the heads. Nothing is decoded."""

from recordings.weld4m_content import UnreadableWeldError, WeldContent
from recordings.weld4m_csv import SensorFileError, read_sensor_csv
from recordings.weld4m_headers import LONGEST_S, MediaError, Promise, avi_promise, flac_promise
from recordings.weld4m_photos import PhotoError, look_at_photo
from recordings.weld4m_tree import FoundWeld

NOT_CHECKED = (
    "a dry run decodes nothing: whether video, sound and photos are whole, where the arc is and how the streams lie in "
    "time was not checked; add --check for that"
)


def glance(weld: FoundWeld) -> WeldContent:
    """Look at the files of a weld; only `unreadable` and `warnings` of the content are filled.

    Raises:
        UnreadableWeldError: Neither video nor sound nor sensors can be used.
    """
    content = WeldContent(unreadable=list(weld.left_out), warnings=list(weld.oddities))
    usable = 0
    for kind, path in weld.files.items():
        try:
            if kind == "sensors":
                file = read_sensor_csv(path)
                about = content.unreadable if file.cut_off else content.warnings
                about += [f"{path.name}: {what}" for what in file.warnings]
            else:
                content.unreadable += _problems(path.name, avi_promise(path) if kind == "video" else flac_promise(path))
            usable += 1
        except (MediaError, SensorFileError) as error:
            content.unreadable.append(f"{kind} left out: {error}")
    if not usable:
        raise UnreadableWeldError("; ".join(content.unreadable).replace(" left out", ""))
    for photo in weld.photos:
        try:
            look_at_photo(photo)
        except PhotoError as error:
            content.unreadable.append(f"photo left out: {error}")
    return content


def _problems(name: str, promise: Promise) -> list[str]:
    problems = []
    if promise.items > LONGEST_S * promise.rate_hz:
        problems.append(f"{name}: its head promises {promise.items} items, which cannot be; what decodes counts")
    if promise.cut_off:
        problems.append(f"{name}: {promise.cut_off} bytes fewer than its head promises; it is cut off")
    return problems
