"""Builder config of a data set: a category at an image size. Reads and writes nothing."""

import hashlib
import re
from dataclasses import dataclass

import tensorflow_datasets as tfds


@dataclass(eq=False)
class CategoryConfig(tfds.core.BuilderConfig):
    """Config of a category at its original size (`image_size` None) or at (height, width)."""

    category: str = ""
    image_size: tuple[int, int] | None = None
    channels: int = 3  # where the files were not surveyed before


def category_config(
    category: str, image_size: tuple[int, int] | None = None, channels: int = 3
) -> CategoryConfig:
    size = "×".join(map(str, image_size)) if image_size else "original size"
    return CategoryConfig(
        name=config_name(category, image_size),
        description=f"{category}, {size}",
        category=category,
        image_size=image_size,
        channels=channels,
    )


def config_name(category: str, image_size: tuple[int, int] | None = None) -> str:
    """Returns a folder name that tensorflow-datasets can parse, unique per category and size."""
    safe = re.sub(r"[^\w+-]", "_", category)
    if safe != category or re.search(r"-\d+x\d+$", safe):
        safe += "-" + hashlib.sha256(category.encode()).hexdigest()[:8]
    return f"{safe}-{image_size[0]}x{image_size[1]}" if image_size else safe
