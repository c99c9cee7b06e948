"""From an output's URL to a clip on disk."""
