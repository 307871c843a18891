"""What each format of images must look like, and where it ends."""
