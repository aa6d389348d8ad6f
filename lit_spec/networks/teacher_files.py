"""What a teacher's file may hold beside its weights, so that reading it takes seconds.

The deepest networks of timm and torchvision have some thousand tensors and headers of less than 1 MiB.
"""

from __future__ import annotations

ARCHITECTURE_KEY = "lit_architecture"
"""In the metadata of a student's safetensors file: its `Architecture`, as JSON."""
TENSORS = 20_000
HEADER_BYTES = 4 << 20
"""Of safetensors. Parsed JSON can take 25 times its size."""
PICKLE_BYTES = 8 << 20
"""Of a .pt file: names, shapes and types."""
DIRECTORY_BYTES = 8 << 20
"""Of a .pt file that is a zip archive."""
MEMBERS = TENSORS + 100
"""Of the same: one for each tensor, and a few for what torch.save adds."""


def too_many_tensors(count: int) -> str:
    """The sentence that refuses them."""
    return f"the file has {count} entries, but a teacher may have at most {TENSORS}: save only the network's state dict"


def too_long_header(size: int) -> str:
    """The sentence that refuses it."""
    return (
        f"the safetensors header has {size} bytes, but at most {HEADER_BYTES} are read: save only the network's state "
        "dict, without metadata"
    )
