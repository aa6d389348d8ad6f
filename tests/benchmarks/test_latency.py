"""What `make bench-latency` compares."""

from __future__ import annotations

import torch

from benchmarks.latency.run import Student, students_of, summary


def test_students_lie_between_the_network_and_the_one_that_was_measured() -> None:
    kept = students_of([9, 9, 9])
    sizes = [sum(map(len, one)) for one in kept]
    assert (sizes[0], sizes[-1]) == (26, 4)
    assert sizes == sorted(set(sizes), reverse=True)
    assert kept[1] != [list(range(len(section))) for section in kept[0]]


def test_errors_are_those_of_what_was_expected() -> None:
    def made(network: str, expected: float) -> Student:
        return Student(network, 1, [[0]], [10.0], [expected], [0.5], [0.4])

    found = summary([made("a", 0.55), made("a", 0.45), made("b", 0.6)], torch.device("cpu"), 1)
    assert (found["median_error_percent"], found["largest_error_percent"]) == (10.0, 20.0)
    assert found["by_network"] == {"a": 10.0, "b": 20.0}
