"""The checked-in cluster files, without a network: the schema of Ray, and settings for security and cost."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parents[2]
RAY_FILES = ("cluster.yaml", "clusters/on-premises.yaml")


def load(name: str) -> dict:
    return yaml.safe_load((PROJECT / name).read_text())


@pytest.fixture
def aws() -> dict:
    return load("cluster.yaml")


@pytest.fixture
def node_types(aws) -> dict[str, dict]:
    return aws["available_node_types"]


@pytest.fixture
def job() -> dict:
    return load("clusters/kuberay.yaml")


@pytest.fixture
def cluster(job) -> dict:
    return job["spec"]["rayClusterSpec"]


def start_commands(config: dict) -> dict[str, str]:
    """The command that starts Ray, for each kind of node."""
    return {
        kind: next(command for command in config[f"{kind}_start_ray_commands"] if "ray start" in command)
        for kind in ("head", "worker")
    }


@pytest.mark.parametrize("name", RAY_FILES)
def test_ray_accepts_the_config(name):
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", RAY_FILES)
def test_ray_rejects_a_misspelled_key(name):
    config = load(name) | {"idle_timeout_minute": 5}
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", RAY_FILES)
def test_every_node_requires_the_token_and_the_jobs_api_is_on_loopback(name):
    config = load(name)
    commands = start_commands(config)
    for command in commands.values():
        assert re.search(r"export RAY_AUTH_MODE=token;.*\bray start\b", command)
    assert "--dashboard-host=127.0.0.1" in commands["head"]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in commands["head"], "without this file no worker starts"
    assert "$RAY_HEAD_IP:6379" in commands["worker"]
    assert "--port=6379" in commands["head"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in config["setup_commands"])


@pytest.mark.parametrize("name", RAY_FILES)
def test_uploads_are_small(name):
    config = load(name)
    assert {".git", ".venv", "__pycache__", "/data", "/results"} <= set(config["rsync_exclude"])
    own = [path for path in config["file_mounts"].values() if not path.startswith("~")]
    files = [file for path in own for file in [PROJECT / path, *(PROJECT / path).rglob("*")] if file.is_file()]
    size = sum(file.stat().st_size for file in files if "__pycache__" not in file.parts)
    assert size < 5 << 20, f"{size:,} bytes of {own}"


@pytest.mark.parametrize("name", RAY_FILES)
def test_mounted_files_exist_and_suffice_for_installation(name):
    mounts = load(name)["file_mounts"]
    for to, path in mounts.items():
        assert path.startswith("~") or (PROJECT / path).exists(), path
        assert to.startswith("~/")
    for needed in ("mdssl", "sweeps", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        assert mounts[f"~/project/{needed}"] == needed


def test_aws_head_is_on_demand_without_gpu_and_spot_workers_scale_from_zero(aws, node_types):
    head, workers = node_types[aws["head_node_type"]], [node_types[name] for name in node_types if name != "head"]
    assert head["resources"] == {"CPU": 4, "GPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert workers
    for worker in workers:
        assert worker["resources"]["GPU"] >= 1
        # Otherwise trials of one sweep fit only some of the workers.
        assert worker["resources"] == workers[0]["resources"]
        assert worker["min_workers"] == 0
        assert 1 <= worker["max_workers"] <= aws["max_workers"]
    is_spot = [worker["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"} for worker in workers]
    assert is_spot == [True, True, True, False]
    assert len({worker["node_config"]["InstanceType"] for worker in workers[:3]}) == 3
    # Among node types with the same resources, Ray starts the one with the highest priority first.
    priorities = [worker["priority"] for worker in workers]
    assert priorities == sorted(set(priorities), reverse=True)
    trials_of_a_head = {"m7i.xlarge": 10, "m7i.2xlarge": 20}
    assert aws["max_workers"] <= trials_of_a_head[head["node_config"]["InstanceType"]]
    assert 1 <= aws["idle_timeout_minutes"] <= 30
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_aws_nodes_have_imdsv2_their_own_network_and_roles_and_encrypted_disks(node_types):
    for name, node_type in node_types.items():
        node = node_type["node_config"]
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1, name
        # Without a security group, Ray creates one that allows SSH from any address.
        assert node["SecurityGroupIds"], name
        assert all(group.startswith("sg-") for group in node["SecurityGroupIds"]), name
        assert node["ImageId"], name
        for disk in node["BlockDeviceMappings"]:
            assert disk["Ebs"]["Encrypted"], name
            assert disk["Ebs"]["DeleteOnTermination"], name
    # Without a profile, Ray gives the head full access to EC2 and S3.
    assert node_types["head"]["node_config"]["IamInstanceProfile"] == {"Name": "mdssl-head"}
    for name in set(node_types) - {"head"}:
        assert node_types[name]["node_config"]["IamInstanceProfile"] == {"Name": "mdssl-worker"}, name


def test_aws_results_and_data_are_in_a_bucket(aws):
    commands = "\n".join(aws["setup_commands"])
    assert re.search(r"MDSSL_STORAGE=s3://\S+/results", commands)
    assert re.search(r"MDSSL_DATA=s3://\S+/data", commands)
    # .bashrc persists between setups, so the line must be added only once.
    assert "grep -q MDSSL_STORAGE ~/.bashrc ||" in commands


@pytest.fixture
def account() -> dict:
    return load("clusters/aws-account.yaml")


def statements(account: dict, *resources: str) -> list[dict]:
    """The statements of all policies of the given resources."""
    found = []
    for name in resources:
        properties = account["Resources"][name]["Properties"]
        documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        found += [statement for document in documents for statement in document["Statement"]]
    return found


def actions(statement: dict) -> list[str]:
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def test_aws_account_allows_ssh_from_one_address_only(account):
    rules = account["Resources"]["Network"]["Properties"]["SecurityGroupIngress"]
    assert rules == [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": {"Ref": "MyAddress"}}]
    among = account["Resources"]["AmongNodes"]["Properties"]
    assert among["SourceSecurityGroupId"] == among["GroupId"]
    allowed = re.compile(account["Parameters"]["MyAddress"]["AllowedPattern"])
    assert allowed.fullmatch("203.0.113.7/32")
    assert not allowed.fullmatch("0.0.0.0/0")


def test_aws_account_grants_the_least_permissions(account, aws):
    rights = statements(account, "UseBucket", "WorkerRole", "HeadRole")
    assert not [action for right in rights for action in actions(right) if "*" in action]
    for right in rights:
        if right["Resource"] == "*":
            assert "Condition" in right or all(action.startswith("ec2:Describe") for action in actions(right)), right
    assert all(action.startswith("s3:") for right in statements(account, "UseBucket") for action in actions(right))
    assert not statements(account, "WorkerRole"), "a worker has access to the bucket only"
    [terminate] = [right for right in rights if "ec2:TerminateInstances" in actions(right)]
    assert terminate["Condition"] == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": {"Ref": "ClusterName"}}}
    assert account["Parameters"]["ClusterName"]["Default"] == aws["cluster_name"]
    [passing] = [right for right in rights if "iam:PassRole" in actions(right)]
    assert passing["Resource"] == {"Fn::GetAtt": ["WorkerRole", "Arn"]}


def test_aws_account_defines_the_instance_profiles_and_a_private_bucket(account, node_types):
    profiles = {
        resource["Properties"]["InstanceProfileName"]
        for resource in account["Resources"].values()
        if resource["Type"] == "AWS::IAM::InstanceProfile"
    }
    assert profiles == {node_type["node_config"]["IamInstanceProfile"]["Name"] for node_type in node_types.values()}
    bucket = account["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == "Retain"
    assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())


def test_aws_account_has_no_yaml_anchors_or_aliases():
    text = (PROJECT / "clusters/aws-account.yaml").read_text()
    assert not [token for token in yaml.scan(text) if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]


def test_kuberay_job_runs_one_sweep_and_shuts_down_after_it(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    script, *flags = spec["entrypoint"].split()[1:]
    assert (PROJECT / script).is_file()
    assert flags[flags.index("--address") + 1] == "auto"
    assert {"--gpus-per-worker", "--max-concurrent"} <= set(flags), "the cluster has no GPU when the sweep starts"
    assert spec["shutdownAfterJobFinishes"] is True


def test_kuberay_entrypoint_has_valid_flags_of_the_sweep(job):
    from mdssl.cli.parse import parse
    from mdssl.cli.sweeps.lambda_grid import LambdaGrid

    script, *flags = job["spec"]["entrypoint"].split()[1:]
    assert script == "sweeps/lambda_grid.py" and (PROJECT / script).exists()
    assert parse(LambdaGrid, prog="", description="", argv=flags).address == "auto"


def test_kuberay_requires_the_token_and_has_the_tested_ray_version(cluster):
    pins = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().split() if "==" in line)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pins["ray"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_kuberay_head_has_no_gpu_and_workers_scale_from_zero(job, cluster):
    assert cluster["enableInTreeAutoscaling"] is True
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    [group] = cluster["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert f"--max-concurrent {group['maxReplicas']}" in job["spec"]["entrypoint"]
    for container in (head, worker):
        assert container["image"] == head["image"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        places = {variable["name"]: variable["value"] for variable in container["env"]}
        assert re.fullmatch(r"s3://\S+/data", places["MDSSL_DATA"])
        assert re.fullmatch(r"s3://\S+/results", places["MDSSL_STORAGE"])
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert group["maxReplicas"] >= 1


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/aws-account.yaml", "clusters/kuberay.yaml"])
def test_the_first_comment_of_untried_files_says_that_they_are_untried(name):
    comment = " ".join(line.strip("# ") for line in (PROJECT / name).read_text().split("\n\n")[0].splitlines())
    assert re.search(r"[Cc]hecked (for its shape )?by the tests; not yet (brought up|deployed|run) on", comment)
