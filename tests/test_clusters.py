"""The commands in the files for SLURM and Kubernetes, run by two processes on this machine."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SMALL = ["--arch", "resnet20", "--width", "4", "--data", "digits", "--steps", "3", "--augment", "none"]

# Does the work of SLURM's srun for two tasks on one node; returns the largest exit code.
SRUN = """#!/bin/bash
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & started[task]=$!
done
largest=0
for task in 0 1; do
    wait ${started[task]} || { code=$?; [ $code -gt $largest ] && largest=$code; }
done
exit $largest
"""


@pytest.fixture
def environment(tmp_path):
    """Returns a process's environment: this `python`, the CPU as device, and no proxy, which JAX warns of."""
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "python", f'#!/bin/bash\nexec {sys.executable} "$@"')
    clean = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return clean | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def check_run(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["device"] == "2 × cpu"
    assert summary["test_examples"] == 360


@pytest.mark.slow
def test_slurm_trains_and_puts_a_stopped_job_back_into_the_queue(tmp_path, environment):
    environment |= {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1"}
    environment |= {
        "JAX_COORDINATOR_PORT": str(free_port())
    }  # JAX's default port, which follows from the job's number, may be in use
    program(tmp_path / "bin" / "srun", SRUN)
    program(tmp_path / "bin" / "scontrol", f'#!/bin/bash\necho "$@" > {tmp_path}/scontrol')

    script = ["bash", ROOT / "examples" / "slurm.sbatch"]
    done = subprocess.run([*script, *SMALL, "--out", tmp_path / "run"], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0
    check_run(tmp_path / "run")
    assert not (tmp_path / "scontrol").exists()

    program(tmp_path / "bin" / "srun", "#!/bin/bash\nexit 143")
    assert subprocess.run(script, cwd=ROOT, env=environment, check=False).returncode == 143
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(143, 0, True), (143, 99, True), (75, 0, True), (137, 3, True), (75, 20, False), (137, 20, False), (2, 0, False)],
)
def test_slurm_puts_a_job_back_whose_command_goes_on(code, restarts, again, tmp_path, environment):
    program(tmp_path / "bin" / "srun", f"#!/bin/bash\nexit {code}")
    program(tmp_path / "bin" / "scontrol", f'#!/bin/bash\necho "$@" > {tmp_path}/scontrol')
    environment |= {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
    script = ["bash", ROOT / "examples" / "slurm.sbatch"]
    assert subprocess.run(script, cwd=ROOT, env=environment, check=False).returncode == code
    assert (tmp_path / "scontrol").exists() == again


@pytest.mark.slow
def test_kubernetes_trains(tmp_path, environment):
    job = kubernetes()["Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    here = f"127.0.0.1:{free_port()}"
    command = [argument.replace("resnet50-0.resnet50:1234", here) for argument in container["command"]]
    assert sum(here in argument for argument in command) == 1
    processes = []
    for index in range(job["spec"]["completions"]):
        mine = [argument.replace("$(JOB_COMPLETION_INDEX)", str(index)) for argument in command]
        mine = ["python", "-W", "error", *mine[1:], *SMALL, "--out", str(tmp_path / "run")]
        # JAX takes this variable as the sign of a cluster, and would look for Kubernetes' library.
        inside = environment | {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}
        processes.append(subprocess.Popen(mine, cwd=ROOT, env=inside))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    check_run(tmp_path / "run")


def kubernetes():
    return {part["kind"]: part for part in yaml.safe_load_all((ROOT / "examples" / "kubernetes.yaml").read_text())}


def test_the_parts_for_kubernetes_fit_each_other():
    parts = kubernetes()
    service, job = parts["Service"], parts["Job"]
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    options = dict(argument.split("=", 1) for argument in container["command"] if argument.startswith("--"))
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert options["--coordinator"] == f"{name}-0.{pod['subdomain']}:{port}"
    assert job["spec"]["completionMode"] == "Indexed"
    assert int(options["--num-processes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    [mount], [volume] = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == parts["PersistentVolumeClaim"]["metadata"]["name"]
    assert options["--out"].startswith(mount["mountPath"])
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy needs this


def test_kubernetes_does_not_count_the_ends_that_another_process_caused():
    rules = kubernetes()["Job"]["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert codes == {"FailJob": [2], "Ignore": [75, 143]}


def test_slurm_sends_a_signal_that_train_py_knows():
    text = (ROOT / "examples" / "slurm.sbatch").read_text()
    assert re.search(r"^#SBATCH --signal=TERM@\d+$", text, re.MULTILINE)
    assert re.search(r"^#SBATCH --requeue$", text, re.MULTILINE)
    subprocess.run(["bash", "-n", ROOT / "examples" / "slurm.sbatch"], check=True)
