"""The templates of the GPU work pools: the jobs that real workers render, and the differences to Prefect's defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.types import HostConfig
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from tests.commands import run_prefect

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
KINDS: dict[str, Any] = {"docker": DockerWorker, "kubernetes": KubernetesWorker}
SPEC = "job_configuration.job_manifest.spec.template.spec"
VARIABLES = "variables.properties"
CHANGED = {
    "docker": {f"{VARIABLES}.image.default", f"{VARIABLES}.container_create_kwargs.default"},
    "kubernetes": {
        f"{SPEC}.containers.0.envFrom",
        f"{SPEC}.containers.0.resources.limits.nvidia.com/gpu",
        f"{SPEC}.nodeSelector",
        f"{SPEC}.tolerations",
        f"{VARIABLES}.image.default",
        *(f"{VARIABLES}.{name}" for name in ("gpu_limit", "node_selector", "tolerations", "secret_name")),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_gpu_was_added_to_the_packages_own_template(kind: str) -> None:
    theirs = KINDS[kind].get_default_base_job_template()
    assert set(differences(theirs, template(kind))) == CHANGED[kind], "renew the template from the package's default"


@pytest.mark.usefixtures("prefect_server")
def test_a_docker_worker_asks_for_all_gpus() -> None:
    job = rendered(DockerWorkerJobConfiguration, "docker", {})
    assert job.image == "retrain:gpu"
    # What docker-py sends to the engine.
    sent = HostConfig(version="1.44", **job.container_create_kwargs)
    (request,) = sent["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert sent["ShmSize"] == 2**30


@pytest.mark.usefixtures("prefect_server")
def test_a_kubernetes_worker_asks_for_one_gpu_on_nodes_that_are_kept_for_gpus() -> None:
    job = rendered(KubernetesWorkerJobConfiguration, "kubernetes", {})
    spec = job.job_manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "retrain:gpu"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["envFrom"] == [{"secretRef": {"name": "retrain"}}]
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["nodeSelector"] == {}


@pytest.mark.usefixtures("prefect_server")
def test_a_deployment_may_choose_the_node_and_the_number_of_gpus() -> None:
    chosen = {"image": "registry/retrain:7-gpu", "gpu_limit": 2, "node_selector": {"gpu": "a100"}, "tolerations": []}
    spec = rendered(KubernetesWorkerJobConfiguration, "kubernetes", chosen).job_manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (container["image"], container["resources"]["limits"]["nvidia.com/gpu"]) == ("registry/retrain:7-gpu", 2)
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"gpu": "a100"}, [])


@pytest.fixture(scope="module")
def pools(prefect_server: None) -> None:
    """Pools of both kinds, as the guide makes them."""
    made = [["work-pool", "create", f"gpu-{kind}", "--type", kind] for kind in KINDS]
    files = [["--base-job-template", str(DEPLOYMENTS / f"gpu-{kind}.json")] for kind in KINDS]
    run_prefect(
        [words + file for words, file in zip(made, files, strict=True)], PREFECT_API_URL=PREFECT_API_URL.value() or ""
    )


@pytest.mark.usefixtures("pools")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_is_made_from_it(kind: str) -> None:
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(f"gpu-{kind}")
    assert (pool.type, pool.base_job_template) == (kind, template(kind))


def template(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOYMENTS / f"gpu-{kind}.json").read_text())
    return document


def rendered(configuration: Any, kind: str, job_variables: dict[str, Any]) -> Any:
    """The job as the worker starts it."""
    job = run_coro_as_sync(configuration.from_template_and_values(template(kind), job_variables))
    assert job is not None
    job.prepare_for_flow_run(FlowRun(flow_id="00000000-0000-0000-0000-000000000000", name="a-run"))
    return job


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """The dotted paths at which the two differ."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        theirs, ours = dict(enumerate(theirs)), dict(enumerate(ours))
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        if theirs != ours:
            yield path.lstrip(".")
        return
    for key in theirs.keys() | ours.keys():
        yield from differences(theirs.get(key), ours.get(key), f"{path}.{key}")
