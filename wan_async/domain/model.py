"""The remote model: its name and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

UPLOAD_LIMIT_BYTES = 100_000_000
"""File Upload takes 100 MB at most (Wiro's API documentation)."""


OWNER = "Wan-AI"
PROJECT = "Wan2.2-TI2V-5B-Image-to-Video-Fast"
MODEL = f"{OWNER}/{PROJECT}"

Resolution = Literal["480P", "580P", "720P"]
AspectRatio = Literal["Default", "16:9", "9:16", "1:1"]
RESOLUTIONS: tuple[str, ...] = get_args(Resolution)
ASPECT_RATIOS: tuple[str, ...] = get_args(AspectRatio)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The six parameters of our model, as they go over the wire (the model's page). All are text."""

    prompt: str
    image_url: str = ""
    negative_prompt: str = ""
    resolution: str = "480P"
    aspect_ratio: str = "Default"
    seed: str = "42"

    def form(self) -> dict[str, str]:
        """All six by the service's names, defaults included: what is not sent can't be compared later."""
        return {
            "inputImageUrl": self.image_url,
            "prompt": self.prompt,
            "negativePrompt": self.negative_prompt,
            "resolution": self.resolution,
            "aspectRatio": self.aspect_ratio,
            "seed": self.seed,
        }
