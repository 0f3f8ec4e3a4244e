"""The model registry: MLflow, where people look models up and services load them by hash.

A model is its bytes, known by their SHA-256; the version's tag `sha256` carries it. Loading
reads data and unpickles nothing. MLflow costs more than a second and 180 MB to import, so it
is imported on first use.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.clock import ms_of_instant, utc_now
from shared.errors import PermanentError, StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT = "model.json"
SHA256_TAG = "sha256"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What no repetition of the call mends; everything else counts as an outage of the store.
_PERMANENT_CODES = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "PERMISSION_DENIED"}
)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes
    ----------
    name, version
        As MLflow knows it.
    run_id
        The run that logged its parameters, metrics and bytes.
    sha256
        Of its bytes.
    """

    name: str
    version: int
    run_id: str
    sha256: str


def open_registry(home: Path, uri: str | None, artifacts: str | None) -> ModelRegistry:
    """Return the registry that settings name.

    Parameters
    ----------
    home
        Folder of the fleet's state, which keeps what has no other place.
    uri
        A tracking store or a server.
    artifacts
        A folder or `s3://bucket/path`; a server keeps its own, wherever that is.
    """
    folder = (home / "mlflow").resolve()
    if uri is not None and uri.startswith(("http://", "https://")):
        return ModelRegistry(uri, "mlflow-artifacts:/")
    return ModelRegistry(
        uri or f"sqlite:///{folder / 'mlflow.db'}", artifacts or str(folder / "artifacts")
    )


class ModelRegistry:
    """Models in MLflow. Every call blocks: run it off the event loop.

    Parameters
    ----------
    tracking_uri
        A store (`sqlite:///...`, `postgresql+psycopg://...`) or a server (`http://...`).
    artifact_root
        Where runs of new experiments put their artifacts: a folder or a URI. With a server
        that proxies artifacts it is `mlflow-artifacts:/`.
    """

    def __init__(self, tracking_uri: str, artifact_root: str) -> None:
        self._tracking_uri = tracking_uri
        self._artifact_root = artifact_root
        self._opened: MlflowClient | None = None

    def log_training(
        self,
        *,
        experiment: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        model_bytes: bytes,
        sha256: str,
        name: str,
    ) -> RegisteredVersion:
        """Record a training and register its model.

        Parameters
        ----------
        experiment
            Name of the experiment; made if absent.
        params, metrics
            Of the run.
        model_bytes, sha256
            The model and the hash by which it is known.
        name
            Name of the registered model; made if absent.

        Returns
        -------
        RegisteredVersion
            The new version; the existing one, and no further run, where this hash is
            registered under the name already.

        Raises
        ------
        PermanentError
            If the bytes have another hash or MLflow refuses the request as invalid.
        StoreError
            If MLflow or its artifact store does not answer.
        """
        actual = hashlib.sha256(model_bytes).hexdigest()
        if actual != sha256:
            raise PermanentError(
                f"model bytes have sha256 {actual}, not {sha256}: give the hash of these bytes"
            )
        existing = self._find(name, sha256)
        if existing is not None:
            return existing
        with self._client(f"log a training of {name}") as client:
            from mlflow.entities import Metric, Param

            run = client.create_run(self._experiment_id(client, experiment))
            run_id = run.info.run_id
            now_ms = ms_of_instant(utc_now())
            client.log_batch(
                run_id,
                metrics=[Metric(key, value, now_ms, 0) for key, value in metrics.items()],
                params=[Param(key, str(value)) for key, value in params.items()],
            )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / ARTIFACT
                path.write_bytes(model_bytes)
                client.log_artifact(run_id, str(path))
            client.set_terminated(run_id)
            _make_model(client, name)
            version = client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/{ARTIFACT}",
                run_id=run_id,
                tags={SHA256_TAG: sha256},
                await_creation_for=None,
            )
            return RegisteredVersion(name, int(version.version), run_id, sha256)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias of a model, such as `champion`, at a version.

        Raises
        ------
        PermanentError
            If there is no such model or version, or the alias is not a valid name.
        StoreError
            If MLflow does not answer.
        """
        with self._client(f"point {alias} of {name} at version {version}") as client:
            client.set_registered_model_alias(name, alias, str(version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Take an alias of a model away; one that does not exist is away already.

        Raises
        ------
        PermanentError
            If there is no such model.
        StoreError
            If MLflow does not answer.
        """
        with self._client(f"take {alias} of {name} away") as client:
            client.delete_registered_model_alias(name, alias)

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Write tags on a version, such as why it was promoted.

        Raises
        ------
        PermanentError
            If there is no such version.
        StoreError
            If MLflow does not answer.
        """
        with self._client(f"tag version {version} of {name}") as client:
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)

    def run_of(self, name: str, sha256: str) -> str | None:
        """Return the run that made the model with this hash, None where none is registered.

        Raises
        ------
        PermanentError
            If name or hash are none.
        StoreError
            If MLflow does not answer.
        """
        found = self._find(name, sha256)
        return None if found is None else found.run_id

    def load(self, name: str, sha256: str) -> bytes:
        """Return the bytes of the model with this hash.

        Raises
        ------
        PermanentError
            If no version of the model carries the hash, or its bytes have another one.
        StoreError
            If MLflow or its artifact store does not answer.
        """
        found = self._find(name, sha256)
        if found is None:
            raise PermanentError(
                f"{name} has no version with sha256 {sha256}: register it or promote another one"
            )
        with (
            # The version exists, so bytes that are missing are an outage: MLflow tells a
            # store that is down and a file that is gone apart no better than this.
            self._client(f"load version {found.version} of {name}", frozenset()) as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            path = client.download_artifacts(found.run_id, ARTIFACT, folder)
            model_bytes = Path(path).read_bytes()
        actual = hashlib.sha256(model_bytes).hexdigest()
        if actual != sha256:
            raise PermanentError(
                f"version {found.version} of {name} should have sha256 {sha256} but its bytes "
                f"have {actual}: the stored model was changed; do not use it, train it again"
            )
        return model_bytes

    def _find(self, name: str, sha256: str) -> RegisteredVersion | None:
        """Return the first version of a model that carries this hash."""
        if not _NAME.fullmatch(name) or not _SHA256.fullmatch(sha256):
            raise PermanentError(
                f"model {name!r} with sha256 {sha256!r}: a name has letters, digits, '.', '_' "
                "and '-', a hash 64 hexadecimal digits"
            )
        with self._client(f"look up {name}") as client:
            found = client.search_model_versions(
                f"name = '{name}' AND tags.{SHA256_TAG} = '{sha256}'",
                order_by=["version_number ASC"],
                max_results=1,
            )
        if not found:
            return None
        return RegisteredVersion(name, int(found[0].version), found[0].run_id, sha256)

    def _experiment_id(self, client: MlflowClient, experiment: str) -> str:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            with _tolerating_existing():
                client.create_experiment(experiment, self._artifact_root)
            found = client.get_experiment_by_name(experiment)
        return str(found.experiment_id)

    @contextmanager
    def _client(
        self, purpose: str, permanent_codes: frozenset[str] = _PERMANENT_CODES
    ) -> Iterator[MlflowClient]:
        """Lend the client; wrap what MLflow and the artifact store raise."""
        # Read when MLflow is imported: a trading fleet reports to nobody unless told to.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server's files come and go through it: its bucket may be out of reach from here.
        os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
        os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            if self._opened is None:
                self._opened = MlflowClient(self._tracking_uri, self._tracking_uri)
            yield self._opened
        except MlflowException as error:
            if error.error_code in permanent_codes:
                raise PermanentError(f"cannot {purpose}: MLflow refused: {error}") from error
            raise StoreError(f"cannot {purpose}: MLflow at fault: {error}") from error
        except ModuleNotFoundError as error:
            if error.name != "boto3":
                raise
            raise PermanentError(
                f"cannot {purpose}: boto3 is not installed, with which MLflow keeps artifacts in "
                "S3: run `uv sync --extra s3`, or keep them in a folder"
            ) from error
        except _storage_faults() as error:
            raise StoreError(f"cannot {purpose}: storage at fault: {error}") from error


def _storage_faults() -> tuple[type[Exception], ...]:
    """Return what databases, folders and, where its client was imported, S3 raise."""
    from sqlalchemy.exc import SQLAlchemyError

    if sys.modules.get("boto3") is None:
        return SQLAlchemyError, OSError
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return SQLAlchemyError, OSError, Boto3Error, BotoCoreError, ClientError


def _make_model(client: MlflowClient, name: str) -> None:
    with _tolerating_existing():
        client.create_registered_model(name)


@contextmanager
def _tolerating_existing() -> Iterator[None]:
    """Pass over MLflow's word that something exists: another process was first."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
