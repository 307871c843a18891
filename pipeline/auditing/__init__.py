"""What a pretrained backbone's features say is wrong: labels, images unlike all others, copies that hashes miss."""
