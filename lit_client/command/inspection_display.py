"""What `litc inspect` shows of a teacher, and `litc sections` of a network."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from lit_client.models import Architecture, ArchitectureItem, Inspection, LibraryArchitecture, StudentOption, Upload
from lit_spec import Task


def inspection_table(upload: Upload, inspection: Inspection) -> Group:
    """A teacher, and what each depth of student saves."""
    found = inspection.architecture
    outputs = "classes" if found.task == Task.CLASSIFICATION else "domains"
    # Not the table's own title, which would be folded to the table's width.
    title = (
        f"{upload.filename}: {_family_and_name(upload, found)}, depth {found.depth}, "
        f"{inspection.parameters:,} parameters, {_input_description(found)}, "
        f"{found.classes} {outputs}, {inspection.format} ({upload.id})"
    )
    unwrapped = f"How the file was read: {'; '.join(inspection.unwrapped)}." if inspection.unwrapped else ""
    texts = (
        unwrapped,
        _other_weights(inspection),
        _measured_with(inspection),
        _library_preprocessing(inspection),
        _open_choices(found),
    )
    lines = [line for line in texts if line]
    return Group(title, _students_table(inspection.students), *lines)


def _other_weights(inspection: Inspection) -> str:
    """How to take the checkpoint's other weights, if it has others."""
    others = [choice for choice in inspection.weights_choices if choice != inspection.weights]
    return "".join(f"To take its other weights: --teacher-weights {other}." for other in others)


def _measured_with(inspection: Inspection) -> str:
    """For what input FLOPs and latency are, and on which machine the latency was measured."""
    if inspection.input_shape is None:
        return ""
    line = f"FLOPs of one input of {'x'.join(map(str, inspection.input_shape))}"
    latency = inspection.latency
    if latency is None:
        return f"{line}; its latency is only measured in smaller networks."
    machine = f"on the inspecting machine ({latency.device}, {latency.threads} threads)"
    return f"{line}. Latency of one such input {machine}, expected from the latency of each block."


def _library_preprocessing(inspection: Inspection) -> str:
    """What a job does with images unless its request says otherwise."""
    found = inspection.preprocessing
    if found is None:
        return ""
    size = "x".join(map(str, found.size))
    if found.resize is None:
        shape = f"resized to {size}"
    elif isinstance(found.resize, int):
        shape = f"resized to a shorter side of {found.resize}, {size} cut from the centre"
    else:
        shape = f"resized to {'x'.join(map(str, found.resize))}, {size} cut from the centre"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (found.mean, found.std))
    return (
        f"Images, unless the request says otherwise, as the library for its weights {found.weights}: {shape} "
        f"({found.resampling}), mean {mean}, std {std}."
    )


def _family_and_name(upload: Upload, found: Architecture) -> str:
    return found.family if upload.architecture is None else f"{found.family} {upload.architecture.name}"


def architectures_table(found: Sequence[ArchitectureItem]) -> Table:
    table = Table("network", "blocks", "parameters")
    table.columns[2].justify = "right"
    for item in found:
        blocks = ", ".join(map(str, item.blocks)) if item.refused is None else "refused"
        table.add_row(f"{item.library}/{item.name}", blocks, f"{item.parameters:,}")
    if any(item.refused is not None for item in found):
        table.caption, table.caption_justify = "litc sections LIBRARY/NAME says why one is refused", "left"
    return table


def architecture_table(found: LibraryArchitecture) -> Group | str:
    title = f"{found.library}/{found.name}: {found.parameters:,} parameters"
    if found.refused is not None:
        return f"{title}; {found.refused}"
    sections = Table("section", "blocks", "from", "to")
    for number, paths in enumerate(found.sections, start=1):
        sections.add_row(str(number), str(len(paths)), paths[0], paths[-1])
    table = _students_table(found.students)
    if found.size is None or found.students[-1].flops is None:
        return Group(title, sections, table)
    return Group(title, sections, table, f"FLOPs of one image of {'x'.join(map(str, found.size))} pixels.")


def _students_table(options: Sequence[StudentOption]) -> Table:
    """What each depth would save. The last one is the network itself."""
    caption = (
        "Blocks shared evenly. --ratio, --speedup and --target compare all shares; --blocks and --kept name others."
    )
    columns = ["depth", "blocks", "parameters", "teacher / student"]
    columns += ["MFLOPs", "teacher / student"] * any(option.flops for option in options)
    columns += ["latency (ms)", "teacher / student"] * any(option.latency_ms for option in options)
    table = Table(*columns, caption=caption, caption_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for option in options:
        row = [str(option.depth), ", ".join(map(str, option.blocks))]
        row += [f"{option.parameters:,}", f"{option.parameters_ratio:.3f}"]
        if option.flops and options[-1].flops:
            row += [f"{option.flops / 1e6:,.1f}", f"{options[-1].flops / option.flops:.3f}"]
        if option.latency_ms and options[-1].latency_ms:
            row += [f"{option.latency_ms:,.2f}", f"{options[-1].latency_ms / option.latency_ms:.3f}"]
        table.add_row(*row)
    return table


def _input_description(found: Architecture) -> str:
    return "texts" if found.channels is None else f"{found.channels} input channels"


def _open_choices(found: Architecture) -> str:
    """What the tensors leave open, in the words of a request."""
    return "\n".join(
        f"Assumed: teacher_options.{name}={found.options.get(name)}; it may be {', '.join(map(str, values))}"
        for name, values in found.choices.items()
    )
