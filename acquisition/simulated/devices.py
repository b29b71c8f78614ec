"""The simulated devices by name."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the command line's help needs the names, and not numpy
    from acquisition.packet import Modality

CAMERA: Final = "camera"
MICROPHONE: Final = "microphone"
SENSORS: Final = "sensors"
PHOTOS: Final = "photos"

DEVICES: Final[dict[str, "Modality"]] = {
    CAMERA: "video",
    MICROPHONE: "audio",
    SENSORS: "sensors",
    PHOTOS: "post_images",
}
"""What each device delivers."""
