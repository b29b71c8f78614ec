"""Networks from a checkpoint: configurations and arrays, checked before they are used."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec
import numpy.typing as npt
import torch
from torch import nn

from models.detector_contract import DetectorError

T = TypeVar("T")


def converted(configuration: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Read one entry of a checkpoint's configuration; raises `DetectorError` naming what does not fit."""
    try:
        return msgspec.convert(configuration.get(name), kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise DetectorError(f"the checkpoint's configuration of '{name}': {error}; train it again") from error


def array_of(state: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Give one of a checkpoint's arrays; raises `DetectorError` when it is missing or of another size."""
    array = state.get(name)
    if array is None or array.shape != shape:
        found = None if array is None else array.shape
        raise DetectorError(f"the checkpoint's '{name}' has shape {found}, wanted {shape}; train it again")
    return array


def fill(
    network: nn.Module, part: str, state: Mapping[str, npt.NDArray[Any]], *, only: Collection[str] | None = None
) -> None:
    """Fill a network with the arrays `part.*` of a checkpoint.

    Args:
        network: What to fill.
        part: Name of the part.
        state: All arrays.
        only: Names of the tensors that the checkpoint holds, where it does not hold all.

    Raises:
        DetectorError: The first array that is absent or does not fit.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if only is None or name in only}
    for name, tensor in wanted.items():
        found = state.get(f"{part}.{name}")
        if found is None:
            raise DetectorError(f"the checkpoint has no array '{part}.{name}'; train it again with this version")
        if found.shape != tuple(tensor.shape):
            raise DetectorError(
                f"the checkpoint's '{part}.{name}' has shape {found.shape}, this version wants "
                f"{tuple(tensor.shape)}; train it again"
            )
    arrays = {name: torch.from_numpy(state[f"{part}.{name}"].copy()) for name in wanted}
    network.load_state_dict(arrays, strict=only is None)
