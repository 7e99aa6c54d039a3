"""Any images in the layout of MVTec AD or BTAD; a category is a folder."""

from vtadl_jax.data.builders.base import LayoutBuilder
from vtadl_jax.data.sources.layouts import BTAD, MVTEC


class ImageFolders(LayoutBuilder):
    """Builder of folders of images; one config per category: config=category_config(NAME)."""

    TITLE = "image folders"
    LAYOUTS = (MVTEC, BTAD)
    PLAIN = True
    DESCRIPTION = "Images in folders of good and defective ones, with masks of the defects."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "give the folder, or an archive of it, that holds train/good (or train/ok) and, to test "
        "on, test/<defect> and ground_truth/<defect>, or folders of such, as --source"
    )
