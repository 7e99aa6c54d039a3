"""Small trees in the exact layouts of the published sets; holds no tests."""

from pathlib import Path

import numpy as np

from tests.data.factory import noise, write


def mvtec_tree(root: Path, category: str = "screw", channels: int = 1, train: int = 5) -> Path:
    """MVTec AD: 000.png and 000_mask.png, a licence and a readme beside the folders."""
    base, seed = root / category, 0
    size = (24, 32) if channels == 1 else (24, 32, 3)
    for folder, count in (("train/good", train), ("test/good", 2), ("test/scratch_head", 3)):
        for i in range(count):
            seed += 1
            write(base / folder / f"{i:03}.png", noise(size, seed))
    for i in range(3):
        write(base / "ground_truth" / "scratch_head" / f"{i:03}_mask.png", block(i))
    for name in ("license.txt", "readme.txt"):
        (base / name).write_text("text")
        (root / name).write_text("text")
    return root


def btad_tree(root: Path, product: str = "01", suffix: str = ".bmp", train: int = 4) -> Path:
    """BTAD: 0000.bmp or .png, ok and ko, masks by the image's stem, as .png or .bmp."""
    base, seed = root / product, 100
    for folder, count in (("train/ok", train), ("test/ok", 2), ("test/ko", 2)):
        for i in range(count):
            seed += 1
            write(base / folder / f"{i:04}{suffix}", noise((24, 32, 3), seed))
    for i in range(2):
        write(base / "ground_truth" / "ko" / f"{i:04}.png", block(i))
    return root


def block(position: int) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[4 : 10 + position, 8:20] = 255
    return mask


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name relative to it; folders with nothing in them too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }
