"""Read images: from any source, in any format, decoded in one place; and the tables that pass between stages."""
