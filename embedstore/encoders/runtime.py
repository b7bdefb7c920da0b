"""What the torch encoders share: devices, precision, hashes, and manners towards other libraries."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from embedstore.errors import UsageError
from embedstore.records import FloatArray

if TYPE_CHECKING:
    import torch

# Record name → name of the distribution.
_LIBRARIES = {
    "embedstore": "embedstore",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "pillow": "pillow",
    "numpy": "numpy",
}


_NO_ROOM = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "MPS backend out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no room for what was asked. Does not load torch.

    On the CPU, and where a library of the GPU wants room for itself, torch says so in a plain RuntimeError.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_ROOM)


def package_versions() -> dict[str, str]:
    """Versions of the libraries that embeddings depend on, without importing them."""
    return {name: version(distribution) for name, distribution in _LIBRARIES.items()}


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of all parameters and buffers: name, dtype, shape and bytes of each, in the order of the names.

    Independent of the device and of the order in which modules were built. One tensor at a time is copied, at most.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def uses_quick_gelu(model: torch.nn.Module) -> bool:
    """Whether any layer is a QuickGELU: seen in the model itself, because configurations and tags may disagree."""
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def find_device(device: str) -> torch.device:
    """Return the device, if this machine has it; ``"auto"`` is the first GPU, or the CPU where there is none.

    Raises
    ------
    UsageError
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is no device: {str(error).splitlines()[0]}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices here"
        )
    return found


@contextmanager
def forward_pass(device: torch.device, precision: str) -> Iterator[None]:
    """Around every forward pass: no gradients, the precision that provenance records, and the same bytes every time."""
    import torch

    with torch.inference_mode(), exact_convolutions(device), computing_in(device, precision):
        yield


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Convolutions in full precision and with the same bytes every time, forwards and backwards."""
    import torch

    if device.type != "cuda":
        yield
        return
    # torch lets cuDNN's convolutions (a ViT's patch embedding) round to TF32 by default; fp32 is to mean fp32.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def computing_in(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A forward pass in this precision; gradients of it are taken outside."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def to_numpy(tensor: torch.Tensor) -> FloatArray:
    """A C-contiguous float32 array on the CPU."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Rows of length one, (T, D) float32, normalised in float64."""
    wide = vectors.astype(np.float64)
    units: FloatArray = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return units


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with tuples as lists, as it will come back from a store."""
    value: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return value


def nearest(asked: str, known: Iterable[str], where: str) -> list[str]:
    """Return the ten closest names, for errors about names of which there are hundreds; ``where`` says who lists all.

    The last entry begins with an ellipsis, which sorts behind every name.
    """
    names = list(known)
    close = difflib.get_close_matches(asked, names, n=10, cutoff=0.4)
    return [*close, f"… {len(names) - len(close)} more, see {where}"]


def reason(error: Exception) -> str:
    """Another library's error in one line of bounded length."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def without_network(files: str) -> str:
    """How to supply a model from the hub without a network; ``files`` spells it from files."""
    return (
        "Without a network: load it once on a machine that has one, copy that machine's Hugging Face cache here, and "
        f"set HF_HOME to it and HF_HUB_OFFLINE=1; or give the files themselves, as {files}"
    )


@contextmanager
def silent_root_logger() -> Iterator[None]:
    """Keep open_clip from installing a handler for the whole process.

    It logs with ``logging.info(…)``, which calls ``basicConfig`` where the root logger has no handler; from then on
    every library prints to stderr. With a handler that does nothing, none is installed. Handlers of the application
    still get all messages.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def prompt_hub(needed: bool = True) -> Iterator[None]:
    """Make the Hugging Face Hub fail at once where it cannot be reached.

    On a compute node without a network its client tries every file six times, about 25 seconds each, with two lines
    of log a try, before it looks into its cache. Offline mode is the same search without the waiting.
    """
    from huggingface_hub import constants

    if not needed or constants.HF_HUB_OFFLINE or _reachable(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _reachable(url: str) -> bool:
    """Whether the host's name resolves. Behind a proxy it need not, so there we cannot say and assume yes."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True


def gflops(images: Callable[[torch.Tensor], object], size: tuple[int, int, int]) -> float:
    """10⁹ floating-point operations of one image, two for each multiplication with addition, to three digits."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused attention layer is not counted
    try:
        with FlopCounterMode(display=False) as counter:
            images(torch.zeros(1, *size))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(f"{counter.get_total_flops() / 1e9:.3g}")


def parameters(module: torch.nn.Module) -> int:
    """How many numbers there are to learn in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
