"""Published files: the places they come from, http, checksums."""
