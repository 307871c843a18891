"""Image formats: how a file of each is recognized, and whether all of it is there."""

DAMAGED_METADATA = "damaged_metadata"  # issue code: what is damaged lies outside the pixels, which are whole

# Suffixes of files, and Pillow's name of the format that each stands for
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
    ".pfm": "PPM", ".avif": "AVIF", ".avifs": "AVIF", ".heic": "HEIF", ".heics": "HEIF",
    ".heif": "HEIF", ".heifs": "HEIF", ".hif": "HEIF",
}  # fmt: skip
