"""Find out what is wrong with images: metadata, duplicates, outliers, and which images can be used."""
