"""What the stage `check` finds out about images: metadata, duplicates, outliers, and which of them can be used."""
