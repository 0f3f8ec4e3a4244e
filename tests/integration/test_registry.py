from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import PermanentError, StoreError
from shared.registry import ModelRegistry, RegisteredVersion
from tests.stub_store import StubStore, serving_store

# MLflow's own mappers use a SQLAlchemy loader strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

MODEL = b'{"kind":"logistic_regression"}'


def sha256_of(model_bytes: bytes) -> str:
    return hashlib.sha256(model_bytes).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one MLflow store: making its tables takes a second."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def registry(store: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return ModelRegistry(f"sqlite:///{store}/mlflow.db", str(store / "artifacts"))


def register(
    registry: ModelRegistry, name: str, model_bytes: bytes = MODEL, sha256: str | None = None
) -> RegisteredVersion:
    return registry.log_training(
        experiment="pairs",
        params={"regularisation": 1.0, "n_splits": 5},
        metrics={"cv_roc_auc": 0.61, "cv_brier": 0.2},
        model_bytes=model_bytes,
        sha256=sha256 or sha256_of(model_bytes),
        name=name,
    )


def test_a_registered_model_is_loaded_by_its_hash(registry: ModelRegistry) -> None:
    first = register(registry, "two_versions")
    second = register(registry, "two_versions", b"another")
    assert (first.version, second.version) == (1, 2)
    assert registry.load("two_versions", first.sha256) == MODEL
    assert registry.load("two_versions", second.sha256) == b"another"


def test_the_run_tells_how_the_model_came_about(registry: ModelRegistry, store: Path) -> None:
    from mlflow import MlflowClient

    version = register(registry, "told")
    client = MlflowClient(f"sqlite:///{store}/mlflow.db", f"sqlite:///{store}/mlflow.db")
    run = client.get_run(version.run_id)
    assert run.data.params == {"regularisation": "1.0", "n_splits": "5"}
    assert run.data.metrics == {"cv_roc_auc": 0.61, "cv_brier": 0.2}
    assert run.info.status == "FINISHED"
    assert client.get_model_version("told", "1").tags == {"sha256": version.sha256}


def test_registering_the_same_bytes_again_changes_nothing(registry: ModelRegistry) -> None:
    first = register(registry, "twice")
    register(registry, "twice", b"in between")
    assert register(registry, "twice") == first
    assert register(registry, "twice", b"a third").version == 3


def test_another_process_sees_the_same_models(registry: ModelRegistry, store: Path) -> None:
    version = register(registry, "shared")
    other = ModelRegistry(f"sqlite:///{store}/mlflow.db", "unused")
    assert other.load("shared", version.sha256) == MODEL
    assert register(other, "shared") == version


def test_an_alias_moves_to_the_version_it_is_set_to(registry: ModelRegistry, store: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/mlflow.db", f"sqlite:///{store}/mlflow.db")
    for model_bytes in (MODEL, b"better"):
        version = register(registry, "aliased", model_bytes).version
        registry.set_alias("aliased", "champion", version)
        assert int(client.get_model_version_by_alias("aliased", "champion").version) == version


def test_an_alias_is_taken_away_once_and_for_all(registry: ModelRegistry, store: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    registry.set_alias("dethroned", "champion", register(registry, "dethroned").version)
    for _ in range(2):
        registry.delete_alias("dethroned", "champion")
    client = MlflowClient(f"sqlite:///{store}/mlflow.db", f"sqlite:///{store}/mlflow.db")
    with pytest.raises(MlflowException, match="alias champion not found"):
        client.get_model_version_by_alias("dethroned", "champion")
    with pytest.raises(PermanentError, match="take champion of never_made away"):
        registry.delete_alias("never_made", "champion")


def test_changed_bytes_are_not_loaded(registry: ModelRegistry, store: Path) -> None:
    version = register(registry, "tampered")
    (path,) = store.glob(f"artifacts/**/{version.run_id}/artifacts/model.json")
    path.write_bytes(b"tampered")
    with pytest.raises(PermanentError) as refusal:
        registry.load("tampered", version.sha256)
    assert version.sha256 in str(refusal.value)
    assert sha256_of(b"tampered") in str(refusal.value)


def test_bytes_that_are_gone_are_an_outage(registry: ModelRegistry, store: Path) -> None:
    version = register(registry, "gone")
    (path,) = store.glob(f"artifacts/**/{version.run_id}/artifacts/model.json")
    path.unlink()
    with pytest.raises(StoreError, match="load version 1 of gone"):
        registry.load("gone", version.sha256)


def test_an_unknown_hash_is_refused(registry: ModelRegistry) -> None:
    register(registry, "known")
    with pytest.raises(PermanentError, match="no version with sha256"):
        registry.load("known", sha256_of(b"never registered"))
    with pytest.raises(PermanentError, match="no version with sha256"):
        registry.load("unknown", sha256_of(MODEL))


def test_a_hash_of_other_bytes_is_refused(registry: ModelRegistry) -> None:
    with pytest.raises(PermanentError, match="give the hash of these bytes"):
        register(registry, "mismatched", sha256=sha256_of(b"other"))
    with pytest.raises(PermanentError, match="no version"):
        registry.load("mismatched", sha256_of(MODEL))


@pytest.mark.parametrize(("name", "sha256"), [("it's", "0" * 64), ("", "0" * 64), ("a", "xyz")])
def test_names_that_would_break_the_search_are_refused(
    registry: ModelRegistry, name: str, sha256: str
) -> None:
    with pytest.raises(PermanentError, match="a name has letters"):
        registry.load(name, sha256)


def test_an_alias_to_nothing_is_refused(registry: ModelRegistry) -> None:
    register(registry, "one_version")
    with pytest.raises(PermanentError, match="point champion of one_version at version 9"):
        registry.set_alias("one_version", "champion", 9)
    with pytest.raises(PermanentError, match="not found"):
        registry.set_alias("never_made", "champion", 1)


def test_a_server_that_does_not_answer_is_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # Port 1 is reserved: nothing listens there.
    registry = ModelRegistry("http://127.0.0.1:1", "mlflow-artifacts:/")
    with pytest.raises(StoreError, match="cannot look up pairs"):
        registry.load("pairs", sha256_of(MODEL))


# --- artifacts in S3 ----------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubStore]:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving_store("artefacts") as stub:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", stub.url)
        yield stub


def test_a_model_is_kept_in_a_bucket_and_loaded_from_it(bucket: StubStore, tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed: uv sync --extra s3")
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db", "s3://artefacts/mlflow")
    version = register(registry, "in_a_bucket")
    kept = f"artefacts/mlflow/{version.run_id}/artifacts/model.json"
    assert bucket.objects == {kept: MODEL}
    assert registry.load("in_a_bucket", version.sha256) == MODEL
    bucket.objects[kept] = b"tampered"
    with pytest.raises(PermanentError, match="the stored model was changed"):
        registry.load("in_a_bucket", version.sha256)
    bucket.is_refusing = True
    with pytest.raises(StoreError, match="load version 1 of in_a_bucket"):
        registry.load("in_a_bucket", version.sha256)
    with pytest.raises(StoreError, match=r"log a training.*storage at fault.*AccessDenied"):
        register(registry, "in_a_bucket", b"another")


def test_without_its_client_a_bucket_is_refused_with_the_remedy(
    bucket: StubStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db", "s3://artefacts/mlflow")
    with pytest.raises(PermanentError, match="uv sync --extra s3"):
        register(registry, "without_a_client")
    assert bucket.written == []


def test_importing_the_registry_does_not_import_mlflow() -> None:
    program = "import sys, shared.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
