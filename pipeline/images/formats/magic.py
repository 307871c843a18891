"""Find out what a file is from its first bytes, whatever its name says."""

from __future__ import annotations

import re

from pipeline.images.stored import Problem

# The formats that are read, by Pillow's names. Their decoders are widely used, and none starts another program, as that
# of EPS does
SIGNATURES = {
    "JPEG": rb"\xff\xd8",
    "PNG": rb"\x89PNG\r\n\x1a\n(?!.{4}CgBI)",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{4}\0{4}",
    "WEBP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "PPM": rb"P[1-6][\s#]|Pf\s",
}
# Brands of files in boxes (ISO/IEC 14496-12, section 4.3): what a reader must know to read them
BOXES = re.compile(rb"(.{4})ftyp(.{4})", re.DOTALL)
AVIF_BRANDS = {b"avif", b"avis", b"MA1A", b"MA1B"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
AV1_ITEM = b"av01"  # the kind of an item, in a file whose brands leave open what is in it
# Images of other formats. They are reported even where the file's name is not that of an image
OTHER_IMAGES = {
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "an image for iOS (CgBI)": rb"\x89PNG.{8}CgBI",
    "a Photoshop image": rb"8BPS",
    "an icon (ICO)": rb"\0\0[\x01\x02]\0[^\0]\0",
    "an OpenEXR image": rb"v/1\x01",
    "a Radiance HDR image": rb"#\?RADIANCE",
    "a GIMP image": rb"gimp xcf",
    "a DDS image": rb"DDS ",
    "a QOI image": rb"qoif",
    "a FITS image": rb"SIMPLE  =",
    "a DICOM image": rb".{128}DICM",
    "a raw photo": rb".{4}ftypcrx |II\x1a\0{3}HEAPCCDR|FUJIFILMCCD-RAW|\0MRM|IIR[OS]|MMOR|IIU\0|FOVb",
    "a JPEG XR image": rb"II\xbc\x01",
    "a PAM image": rb"P7\s",
    "a PFM image in color": rb"PF\s+\d",
    "a Targa image": rb"\0[\0\x01][\x01-\x03\x09-\x0b].{13}[\x08\x10\x18\x20]",
}
# Signatures of JPEG and PNG after some program took the bytes for text and replaced characters or line ends for good
MANGLED = re.compile(rb"\xc3\xbf\xc3\x98|(?:\xef\xbf\xbd){2}|(?:\x89|\xc2\x89|\xef\xbf\xbd)PNG[\r\n]")
HEADLESS = re.compile(rb".{6}(?:JFIF|Exif)\0|.{12}IHDR|.{8}WEBPVP8", re.DOTALL)  # without the signature
STRAY = re.compile(rb"(?:\xef\xbb\xbf|\s)+")  # byte order marks and blanks, as a web server's scripts print them
BEGINNING = rb"(?:\xef\xbb\xbf)?\s*"  # text may begin with a byte order mark and blanks
# possessive, because a row of comments could be parted in as many ways as it has subsets
XML = BEGINNING + rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+"
OTHERS = {
    "an HTML page": XML + rb"<(?:!doctype html|html|head|body|title|script|meta)\b",
    "an SVG drawing": XML + rb"(?:<!doctype svg[^>]*>\s*)?<svg\b",
    "an XML document": BEGINNING + rb"<\?xml\b",
    "a Git LFS pointer in place of the image: run git lfs pull": rb"version https://git-lfs",
    # as git-annex writes it, or the text of a link, also out of a submodule, on systems without links
    "a git-annex pointer in place of the image: run git annex get": rb"(?:(?:\.\./)*\.git[^\n]*)?/annex/objects/",
    "a PDF document": BEGINNING + rb"%PDF",
    "a PostScript document": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a JSON document": BEGINNING + rb"[{\[]\s*[\"{\[]",
    "a zip archive": rb"PK(?:\x03\x04|\x05\x06)",
    "compressed by gzip: unpack it": rb"\x1f\x8b",
    "compressed by bzip2: unpack it": rb"BZh\d",
    "compressed by xz: unpack it": rb"\xfd7zXZ",
    "compressed by zstd: unpack it": rb"\x28\xb5\x2f\xfd",
    "a RAR archive": rb"Rar!",
    "a 7z archive": rb"7z\xbc\xaf",
    "a video (MP4 or MOV)": rb".{4}(?:ftyp|moov|mdat|wide|free)",
    "a video (Matroska or WebM)": rb"\x1a\x45\xdf\xa3",
    "a video (AVI)": rb"RIFF.{4}AVI ",
    "a sound (WAV)": rb"RIFF.{4}WAVE",
    "macOS's notes on another file": rb"\0\x05\x16\x07",
    "a folder's view settings (.DS_Store)": rb"\0\0\0\x01Bud1",
    "a document or thumbnail store of Windows": rb"\xd0\xcf\x11\xe0",
    "a program": rb"\x7fELF|MZ.{58}\0",
    "a NumPy array": rb"\x93NUMPY",
    "an HDF5 file": rb"\x89HDF",
    "an SQLite database": rb"SQLite format 3",
}


IS_FORMAT = {name: re.compile(pattern, re.DOTALL) for name, pattern in SIGNATURES.items()}
READ = 4096  # bytes that are looked at


def image_format(content: bytes) -> str | None:
    """Pillow's name of the format; None for a file that is in none of the formats that are read."""
    found = next((name for name, pattern in IS_FORMAT.items() if pattern.match(content)), None)
    return found or format_by_brand(content)


def format_by_brand(content: bytes) -> str | None:
    """AVIF or HEIF by the brands of a file in boxes: the first that tells, from its major brand on; else None."""
    boxes = BOXES.match(content)
    if boxes is None:
        return None
    compatible = content[16 : min(int.from_bytes(boxes[1], "big"), READ)]
    brands = [boxes[2], *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]
    if not AVIF_BRANDS.union(HEIF_BRANDS).intersection(brands):
        return None
    codecs = [brand in AVIF_BRANDS for brand in brands if brand in AVIF_BRANDS or brand[:2] == b"he"]
    return "AVIF" if (codecs[0] if codecs else AV1_ITEM in content[:READ]) else "HEIF"


def describe(content: bytes) -> Problem:
    """Say what a file is for which `image_format` gives None: `unreadable` for an image, else `not_an_image`."""
    start = content[:READ]
    if stray := STRAY.match(start):
        image = image_format(start[stray.end() :])
        if image and image != "PPM":  # that begins as a text may
            return Problem("unreadable", f"stray bytes before the image ({image}): remove the first {stray.end()}")
    for name, pattern in OTHER_IMAGES.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return Problem("unreadable", f"{name}, a format that is not read: convert it to PNG or JPEG")
    if MANGLED.match(start):
        return Problem("unreadable", "an image that was read or sent as if it were text: fetch it again")
    if HEADLESS.match(start):
        return Problem("unreadable", "an image whose first bytes are damaged")
    for name, pattern in OTHERS.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return Problem("not_an_image", name)
    if not content.strip(b"\0"):
        return Problem("not_an_image", "nothing but zero bytes: it was never written")
    if text := as_text(start):
        return Problem("not_an_image", f"text: {text!r}")
    return Problem("not_an_image", "not in a known image format")


def as_text(start: bytes) -> str:
    """The first words of a text in UTF-8 or UTF-16; empty if the bytes are no text."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = " ".join(start.decode(encoding, "replace").split())[:40]
    letters = sum(character.isalnum() or character == " " for character in text)
    return text if len(start) > 1 and "\ufffd" not in text and text.isprintable() and letters > 0.7 * len(text) else ""
