"""Download published files: mirrors, HTTP, checksums, model hubs."""
