"""The inspection of a teacher that nobody has: a digits' ResNet, for jobs that are only written down."""

from __future__ import annotations

from lit_spec import Architecture, Inspection, StudentOption
from lit_spec.networks.architecture import TeacherFormat

INSPECTION = Inspection(
    format=TeacherFormat.SAFETENSORS,
    architecture=Architecture(
        family="resnet_cifar",
        depth=38,
        blocks=[6, 6, 6],
        channels=1,
        classes=10,
        options={"width": 12, "shortcut": "A"},
    ),
    parameters=300_000,
    students=[
        StudentOption(depth=2 + 6 * n, blocks=[n, n, n], parameters=1000 * n, parameters_ratio=6 / n)
        for n in range(1, 7)
    ],
    first_blocks_stay=[False, True, True],
)
