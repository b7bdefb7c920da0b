"""What a worker process needs to know to embed blocks: it opens store and model itself."""

from __future__ import annotations

from dataclasses import dataclass

from embedstore.extract.blocks import BlockRunner
from embedstore.sources import Source


@dataclass(frozen=True)
class Job:
    """One model and one split; picklable, and the same for every worker.

    The fields are the parameters of :class:`BlockRunner` and of :func:`embedstore.encoders.load_encoder`.
    """

    location: str
    source: Source
    dataset: str
    split: str
    model: str
    name: str | None
    precision: str
    dtype: str
    decode: str
    defence: str | None
    batch_size: int
    workers: int | None
    captions: str | None
    stop_on_error: bool

    def open(self, device: str) -> BlockRunner:
        """Load the model onto a device, and open the store.

        Raises
        ------
        EmbedstoreError
            Above all FingerprintMismatch: this machine's weights are not those that the store was begun with.
        """
        from embedstore.encoders import load_encoder
        from embedstore.store import Store

        settings = {"precision": self.precision, "dtype": self.dtype, "decode": self.decode}
        encoder = load_encoder(self.model, device=device, name=self.name, defence=self.defence, **settings)
        store = Store.open(self.location, writable=True)
        store.add_model(encoder.provenance, encoder.projection)
        return BlockRunner(
            store,
            encoder,
            self.source,
            store.rows(self.dataset, self.split),
            batch_size=self.batch_size,
            workers=self.workers,
            captions=self.captions,
            stop_on_error=self.stop_on_error,
        )
