"""The seam between images and everything that embeds them: one small protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from embedstore.errors import ImageError
from embedstore.records import Rows

if TYPE_CHECKING:
    from PIL import Image

    Payload: TypeAlias = bytes | Image.Image | ImageError
else:
    # Naming PIL's class here would import PIL with every `import embedstore.sources`.
    Payload = object


class Source(Protocol):
    """Where images come from. Picklable, so that loader workers can carry it.

    Attributes
    ----------
    dataset, split : str
        What to call the rows in a store unless somebody says otherwise: taken from the path, and safe as a name.
    """

    dataset: str
    split: str

    def scan(self, limit: int | None = None) -> Rows:
        """List the rows, or the first ones of them: names and places only, no image is decoded.

        Raises
        ------
        SourceError
            Something is missing, damaged or contradicts itself; the message names the shard or file, and the key.
        """
        ...

    def read(self, rows: Rows, start: int, stop: int) -> Iterator[Payload]:
        """Yield what there is to decode for ``rows[start:stop]``: one payload a row, in order.

        ``start`` and ``stop`` mean what they mean in a slice. Where one image cannot be had, an ``ImageError``
        *instance* stands in its place, so that the others go on.

        Raises
        ------
        SourceError
            A whole shard is gone or is no longer the one that was scanned; or reading fails for a reason that is not
            the image's own (a broken disk or connection, too many open files). That is no fault of the images, and
            they must not be recorded as failed.
        """
        ...

    def captions(self, rows: Rows, start: int, stop: int, extension: str) -> Iterator[str | None]:
        """Yield the UTF-8 text of ``KEY.<extension>`` for ``rows[start:stop]``, in order; None where there is none.

        Bytes that are not UTF-8 become U+FFFD (``errors="replace"``): one odd letter in one caption must neither stop
        the others nor lose the caption.

        Raises
        ------
        SourceError
            A shard as in :meth:`read`, or a caption's file that cannot be read.
        UsageError
            This kind of source has no captions.
        """
        ...
