"""Programs that measure this package beside a peer; each prints one JSON line. See `make bench`."""
