"""What may be asked about torchvision's and timm's networks before anything is uploaded."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_a_network_shows_its_sections_and_what_each_depth_saves(api: TestClient) -> None:
    shown = api.get("/v1/architectures/torchvision/resnet50").json()
    assert shown["blocks"] == [3, 4, 6, 3]
    assert shown["sections"][0] == ["layer1.0", "layer1.1", "layer1.2"]
    assert shown["parameters"] == 25557032
    students = shown["students"]
    assert [student["depth"] for student in students] == list(range(4, 17))
    assert students[0]["blocks"] == [1, 1, 1, 1]
    assert students[-1] == {"depth": 16, "blocks": [3, 4, 6, 3], "parameters": 25557032, "parameters_ratio": 1.0}
    ratios = [student["parameters_ratio"] for student in students]
    assert ratios == sorted(ratios, reverse=True)


def test_a_tag_of_weights_changes_nothing(api: TestClient) -> None:
    plain = api.get("/v1/architectures/timm/vit_tiny_patch16_224").json()
    assert plain["blocks"] == [3, 3, 3, 3]
    assert api.get("/v1/architectures/timm/vit_tiny_patch16_224.augreg_in21k").json() == plain


def test_a_refusal_says_why(api: TestClient) -> None:
    shown = api.get("/v1/architectures/torchvision/densenet121").json()
    assert "changes the shape" in shown["refused"]
    assert (shown["blocks"], shown["students"]) == ([], [])


def test_an_unknown_name_is_told_its_neighbours(api: TestClient) -> None:
    answer = api.get("/v1/architectures/torchvision/resnet-50")
    assert answer.status_code == 404
    assert "resnet50" in answer.json()["detail"]
    assert api.get("/v1/architectures/keras/resnet50").status_code == 422


def test_the_list_is_searched_and_paged(api: TestClient) -> None:
    first = api.get("/v1/architectures", params={"library": "timm", "search": "VIT_", "limit": 3}).json()
    names = [item["name"] for item in first["items"]]
    assert len(names) == 3
    assert all("vit_" in name for name in names)
    query = {"library": "timm", "search": "VIT_", "limit": 3, "cursor": first["next_cursor"]}
    second = api.get("/v1/architectures", params=query).json()
    assert names[-1] < second["items"][0]["name"]
    assert api.get("/v1/architectures", params={"cursor": "!!"}).status_code == 422
    assert api.get("/v1/architectures", params={"search": "no such network"}).json() == {
        "items": [],
        "next_cursor": None,
    }
