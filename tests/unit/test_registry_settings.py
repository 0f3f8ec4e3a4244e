from __future__ import annotations

from pathlib import Path

import pytest

from shared import registry
from shared.registry import open_registry


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Registries that were opened: where runs and where artifacts go."""
    registries: list[tuple[str, str]] = []

    def record(tracking_uri: str, artifact_root: str) -> None:
        registries.append((tracking_uri, artifact_root))

    monkeypatch.setattr(registry, "ModelRegistry", record)
    return registries


def test_artifacts_go_through_an_mlflow_server_and_not_to_a_folder_it_cannot_see(
    opened: list[tuple[str, str]], tmp_path: Path
) -> None:
    for uri in ("http://mlflow:5000", "https://mlflow:5000"):
        open_registry(tmp_path, uri, "s3://not/asked")
    assert opened == [(f"{kind}://mlflow:5000", "mlflow-artifacts:/") for kind in ("http", "https")]


def test_without_a_server_runs_and_artifacts_are_kept_in_the_home(
    opened: list[tuple[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "mlflow"
    open_registry(tmp_path, None, None)
    open_registry(tmp_path, "sqlite:///own.db", None)
    runs = f"sqlite:///{folder / 'mlflow.db'}"
    assert opened == [
        (runs, str(folder / "artifacts")),
        ("sqlite:///own.db", str(folder / "artifacts")),
    ]


def test_without_a_server_artifacts_are_kept_where_the_settings_say(
    opened: list[tuple[str, str]], tmp_path: Path
) -> None:
    open_registry(tmp_path, None, "s3://bucket/mlflow")
    assert opened == [(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}", "s3://bucket/mlflow")]
