"""The review page of an output folder."""
