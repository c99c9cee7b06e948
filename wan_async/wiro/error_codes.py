"""Error codes and error messages of the service that mean something to a client (WIRO_API 2)."""

from __future__ import annotations

CODE_AT_LIMIT = 96
CODE_OUT_OF_FUNDS = 97
VALIDATION_PREFIXES = ("Request parameter", "Request files")
"""Prefixes of messages with code 0 that refuse the request itself: no task was made."""
STOPPING = (
    "account has been suspended",
    "you dont have any permission",
    "model is not available for your team",
    "model is not allowed in your team",
)
"""Normalised messages with code 0 that refuse every Run of the account (Wiro's API documentation)."""
OUT_OF_MONEY = ("team spend limit has been reached", "personal spend limit in this team has been reached")
"""Likewise for a spending limit of the team; handled as error 97."""
SIGN_IN = ("sign in to run this model",)
NO_TASK = ("tasknotfounded", "tasknotexist", "there is no task")
"""Normalised messages with code 0 that say that a task doesn't exist."""
NO_ENDPOINT = ("error parsing url",)
