from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer import handlers
from shared.settings import Settings


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Registries that trainers were built with: where runs and where artifacts go."""
    registries: list[tuple[str, str]] = []

    def record(tracking_uri: str, artifact_root: str) -> None:
        registries.append((tracking_uri, artifact_root))

    monkeypatch.setattr(handlers, "ModelRegistry", record)
    return registries


def test_artifacts_go_through_an_mlflow_server_and_not_to_a_folder_it_cannot_see(
    opened: list[tuple[str, str]], tmp_path: Path
) -> None:
    handlers.Trainer(Settings(home=tmp_path, mlflow_url="http://mlflow:5000"))
    assert opened == [("http://mlflow:5000", "mlflow-artifacts:/")]


def test_without_a_server_runs_and_artifacts_are_kept_in_the_home(
    opened: list[tuple[str, str]], tmp_path: Path
) -> None:
    handlers.Trainer(Settings(home=tmp_path))
    folder = tmp_path / "mlflow"
    assert opened == [(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))]
