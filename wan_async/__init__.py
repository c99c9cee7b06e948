"""Asyncio client and concurrent batch runner for one paid remote model."""

__version__ = "0.1.0"
