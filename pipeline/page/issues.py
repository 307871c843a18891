"""What each issue means, in the order in which a person should look at them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Issue(NamedTuple):
    """How the page presents an issue: a heading, a sentence, and the column that its images are looked at by."""

    title: str
    meaning: str
    measure: str = ""
    worst: Literal["low", "high", "far", ""] = ""  # the values that come first; far: from the median


# Issues of images that resemble others. They are shown as groups, and a group only under the first issue that it has
GROUPS = {
    "label_conflict": Issue(
        "Contradictions", "Equal or nearly equal images in different classes: at least one of the labels is wrong."
    ),
    "split_leak": Issue(
        "Leaks across official splits",
        "The same image in two published splits: results on the test split would be too good."
        " The copy in the weaker split is quarantined.",
    ),
    "near_duplicate": Issue(
        "Near duplicates",
        "Nearly the same picture: resized, re-encoded, cropped, flipped. Always in one split.",
    ),
    "exact_duplicate": Issue("Exact duplicates", "The same pixels more than once. Always in one split."),
}
# What the stage audit finds: of pairs, and of single images
PAIRS = {
    "copy_across_splits": Issue(
        "Near copies across splits",
        "Nearly the same picture in two splits, which hashes have not found: results in the stronger split"
        " would be too good. It stands first; the other may be dropped.",
    ),
    "near_copy": Issue("Near copies", "Nearly the same picture in one split, which hashes have not found."),
}
AUDITED = {
    "wrong_label": Issue(
        "Likely wrong labels",
        "Images that look like another class to a linear head that has not seen them. A tick gives them that class.",
        "margin",
    ),
    "outlier": Issue("Outliers", "Far from their nearest neighbors: like nothing else in this data set.", "distance"),
}
ISSUES = {
    "unreadable": Issue("Unreadable", "The decoder fails on it: damaged tables, wrong checksums, a crash.", "bytes"),
    "truncated": Issue("Truncated", "The data ends too early.", "bytes"),
    "corrupt": Issue("Corrupt", "It opens, but the decoder had to guess: part of the picture is damaged.", "bytes"),
    "not_an_image": Issue("Not an image", "In no known image format, whatever its name says.", "bytes"),
    "empty_file": Issue("Empty files", "A file of 0 bytes."),
    "too_large": Issue(
        "Too large", "More pixels than check.max_pixels allows, or bytes than any photo has.", "bytes", "high"
    ),
    "no_label": Issue("Without a class", "An image outside every class folder, or a hidden one."),
    "blank": Issue("Blank", "One color all over: nothing to learn from.", "contrast", "low"),
    "dark": Issue("Dark", "Far darker than the rest of this data set.", "brightness", "low"),
    "bright": Issue("Bright", "Far brighter than the rest of this data set.", "brightness", "high"),
    "low_contrast": Issue("Low contrast", "Far flatter than the rest of this data set.", "contrast", "low"),
    "blurry": Issue("Blurry", "Far less sharp than the rest of this data set.", "sharpness", "low"),
    "odd_color": Issue("Odd color", "Without color among color pictures, or the other way around."),
    "odd_size": Issue("Odd sizes", "Far smaller or larger than the rest of this data set.", "pixels", "far"),
    "odd_aspect_ratio": Issue(
        "Odd aspect ratios", "Far wider or taller than the rest of this data set.", "aspect_ratio", "far"
    ),
    "format_mismatch": Issue("Misnamed", "In another format than the file name says; read correctly.", "format"),
    "exif_rotated": Issue("Rotated by EXIF", "Stored turned; turned upright before use."),
    "corrupt_exif": Issue("Corrupt EXIF", "Metadata that makes no sense; the picture is whole."),
    "damaged_metadata": Issue(
        "Damaged metadata", "Text, a color profile or stray bytes beside the pixels are damaged; the picture is whole."
    ),
    "color_profile": Issue(
        "Color profiles", "Made for other colors than sRGB; used as stored, unless pack.color_profile says srgb."
    ),
    "clipped": Issue(
        "Clipped", "Values darker than black or brighter than white of their format were cut off.", "brightness", "high"
    ),
    "unexpected_mode": Issue(
        "Unusual color modes", "Neither gray nor RGB with 8 bits: palette, alpha, CMYK, 16 bits; converted.", "mode"
    ),
    "animated": Issue("Animated", "More than one frame; only the first is used."),
    "trailing_data": Issue("Trailing data", "More data after the end of the image; ignored.", "bytes", "high"),
}
