"""Wiro's language, spoken without I/O: signature, requests, answers, tasks, prices, socket messages.

What is stated here about the service comes from its public API documentation and the model's page. It keeps to three rules:

- The service is tolerant, so are we: numbers come as strings or numbers, objects as JSON in strings, lists as null, and
  unknown fields and statuses at any time. What is not understood is kept, never refused.
- Failures usually arrive with HTTP 200. `judge_run` alone decides what an answer to Run means, because that one costs
  money: `Accepted` (a task exists), `Refused` (certainly none exists) or `Unclear` (nobody knows yet).
- Amounts are integer micro-dollars: a budget must add up.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import Enum
from typing import Annotated, Any, Literal, NewType, get_args

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

OWNER = "Wan-AI"
PROJECT = "Wan2.2-TI2V-5B-Image-to-Video-Fast"
MODEL = f"{OWNER}/{PROJECT}"
BASE_URL = "https://api.wiro.ai/v1"
SOCKET_URL = "wss://socket.wiro.ai/v1"

Resolution = Literal["480P", "580P", "720P"]
AspectRatio = Literal["Default", "16:9", "9:16", "1:1"]
RESOLUTIONS: tuple[str, ...] = get_args(Resolution)
ASPECT_RATIOS: tuple[str, ...] = get_args(AspectRatio)

TaskId = NewType("TaskId", str)
TaskToken = NewType("TaskToken", str)

UPLOAD_LIMIT_BYTES = 100_000_000
"""File Upload takes 100 MB at most (Wiro's API documentation)."""
LIST_PAGE = 100
"""Task/List answers 100 tasks a page at most (Wiro's API documentation)."""


class Output(BaseModel):
    """A file that a task made. `name` is the server's word: never a path."""

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)

    id: str = ""
    name: str = ""
    contenttype: str = ""
    size: int | None = None
    url: str = ""
