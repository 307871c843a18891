"""The pages that show a person what check found and how the images are split."""
