"""Reading images: where they are, what they hold, what is wrong with them."""
