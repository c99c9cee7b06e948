"""The library: `WanClient` for single calls, `open_batch` for everything that `run` does."""
