"""Find out what is wrong with images, one by one and as a whole, and which can be used."""
