"""The feature store, the core of the project: numpy and zarr only. It knows no model."""

from embedstore.store.damage import Problem
from embedstore.store.images import Images, ImageWriter, as_stored
from embedstore.store.splits import Split, check_keys
from embedstore.store.store import DEFAULT_BLOCK_ROWS, Store

__all__ = ["DEFAULT_BLOCK_ROWS", "ImageWriter", "Images", "Problem", "Split", "Store", "as_stored", "check_keys"]
