"""Image formats: how a file of each is recognized, and whether all of it is there."""

DAMAGED_METADATA = "damaged_metadata"  # issue code: what is damaged lies outside the pixels, which are whole

# Suffixes of files, and Pillow's name of the format that each stands for
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
    ".pfm": "PPM", ".avif": "AVIF", ".avifs": "AVIF", ".heic": "HEIF", ".heics": "HEIF",
    ".heif": "HEIF", ".heifs": "HEIF", ".hif": "HEIF",
}  # fmt: skip
# Suffixes of images in formats that are not read: JPEG 2000, JPEG XL and XR, DICOM, FITS, raw photos and others
UNREAD_SUFFIXES = {
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm", ".jxl", ".jxr", ".wdp", ".hdp", ".dcm", ".dicom", ".fits",
    ".fts", ".psd", ".psb", ".xcf", ".exr", ".dds", ".qoi", ".tga", ".pam", ".3fr", ".arw", ".cr2", ".cr3",
    ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
