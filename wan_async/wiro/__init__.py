"""The language of the service, and a client for its endpoints."""
