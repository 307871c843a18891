"""What a finding about a data set as a whole costs, and what to do about it."""

from __future__ import annotations

# By attribute, or by kind of attribute
COSTS = {
    "size": "pack scales all images to one size. Those that it enlarges are blurred: a network can tell them by that.",
    "aspect ratio": "pack crops, pads or stretches all images to one shape: a network can tell what shape they had.",
    "format": "Compression leaves traces in the pixels that a network can learn.",
    "color mode": "Gray, transparent or few colors are seen in the pixels: a network can learn them.",
    "camera": "Cameras differ in color, noise and sharpness: a network can learn which one it was.",
    "detail": "Compression leaves traces in the pixels that a network can learn. But more to see takes more bytes too.",
    "filing": "A network sees no names and no order. But such images may be of other sources or other days, and it can"
    " learn what else sets those apart: background, light.",
    "picture": "This may be what the classes are about, as for day and night. If it is not, a network can do well"
    " without seeing anything else.",
}
MENDS = {
    "size": "Collect images of the same sizes for every class, or choose a pack.size that enlarges none.",
    "aspect ratio": "Collect images of the same shapes for every class, or crop all of them alike.",
    "format": "Save all images in one format and quality, from the originals.",
    "color mode": "Collect images of the same kind for every class, or pack with channels: 1.",
    "camera": "Take pictures of every class with every camera, and test with a camera that has not trained.",
    "detail": "If it is the quality, save all images anew with one, from the originals.",
    "filing": "Collect every class from the same sources and at the same times.",
    "picture": "If it is not, collect every class in the same light, or augment brightness and contrast.",
}
SPLITS_COST = "Results on one split say little about images like those of the other."
SPLITS_MEND = (
    "If both should be of one kind, take the folders of the splits away: then this pipeline draws them. If the test is"
    " meant to be of another kind, nothing."
)
DRAWN_MEND = "Large groups, or few, make splits differ by chance: more images help, or another seed."
GROUPS_COST = (
    "With images of one group in two splits, a network may recognize the group instead of the class, and"
    " results are too good."
)
