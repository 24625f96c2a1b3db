"""Formats of texts with a structure: each reader yields documents from a stream of bytes and the name of the file."""
