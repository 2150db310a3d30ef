"""How the weights of a base model are loaded: data type, quantisation, attention and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ..cli.mistakes import report
from ..cli.packages import missing_packages


@dataclass(frozen=True)
class BaseWeights:
    """How the weights of a base model are loaded. Training and prediction say it in the same way.

    Attributes:
        dtype: Data type; `"auto"` takes the checkpoint's.
        quantization_config: Quantisation; `None` for none.
        attn_implementation: As in transformers; `None` for the one that is fastest.
        device_map: As in transformers; `None` puts quantised weights on this process's device, and no others.
    """

    dtype: str | torch.dtype | None = "auto"
    quantization_config: BitsAndBytesConfig | None = None
    attn_implementation: str | None = None
    device_map: Any = None

    def kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of `from_pretrained`.

        Raises:
            ValueError: If the weights are quantised and bitsandbytes is missing.
        """
        if self.quantization_config is not None:
            report(missing_packages(["bitsandbytes"], "A quantised model"))
        device_map = self.device_map
        if device_map is None and self.quantization_config is not None:  # quantised where they stay
            device_map = {"": process_device()}
        return {
            "dtype": self.dtype,
            "quantization_config": self.quantization_config,
            "attn_implementation": self.attn_implementation,
            **({} if device_map is None else {"device_map": device_map}),
        }


AS_SAVED = BaseWeights()  # as the checkpoint has them


def process_device() -> torch.device:
    """The device of this process: its GPU where there is one."""
    from accelerate import PartialState

    return PartialState().device
