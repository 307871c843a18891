"""What `check` works out: facts on disk, copies, outliers, validation."""
