"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from lit_client.addresses import DEFAULT_URL, URL_VARIABLE
from lit_spec import Constants, TeacherWeights

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=URL_VARIABLE,
        help=f"Address of the service; default {DEFAULT_URL}. The key, if it needs one, comes from LIT_API_KEY.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON, for pipelines.")]
ArchitectureOption = Annotated[
    str | None,
    typer.Option(
        help="What the teacher is, as torchvision/resnet50, or as JSON with library, name, kwargs and sections."
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS", help="Side, or height,width, of the images for the network, as 224; by default its library's."
    ),
]
NormalizeOption = Annotated[
    Constants | None,
    typer.Option(help="Mean and std of the images: the library's (its teachers' default), ImageNet's, or the data's."),
]
ExpectAccuracyOption = Annotated[
    float | None,
    typer.Option(help="Percent that the teacher is known to reach; if it clearly reaches less here, the job fails."),
]
WeightsOption = Annotated[
    TeacherWeights | None,
    typer.Option(
        "--teacher-weights", help="Which weights to take of a checkpoint that has raw and averaged (EMA, SWA) ones."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=JSON",
        help="Any field of the request, as schedule.batch_size=64; may be repeated.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Or what it must reach, as size_mb=5: latency_ratio, latency_ms, size_mb, flops_ratio, parameters_ratio, "
        "max_accuracy_drop.",
    ),
]

TRACKING_PANEL = "Tracking"
ExperimentOption = Annotated[
    str | None,
    typer.Option(
        "--track-experiment",
        metavar="NAME",
        help="MLflow's experiment; default the operator's.",
        rich_help_panel=TRACKING_PANEL,
    ),
]
NoTrackOption = Annotated[
    bool, typer.Option("--no-track", help="Keep it out of MLflow.", rich_help_panel=TRACKING_PANEL)
]
RegisterOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A registered model of MLflow, of which the student becomes a version.",
        rich_help_panel=TRACKING_PANEL,
    ),
]
TensorboardOption = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write training.tfevents, for TensorBoard.", rich_help_panel=TRACKING_PANEL),
]
