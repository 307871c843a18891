"""The page that shows a person what check and split found."""
