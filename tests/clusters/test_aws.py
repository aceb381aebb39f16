"""``cluster.yaml`` and ``clusters/aws-account.yaml`` with the AWS provider of Ray and the AWS mock of moto.

botocore checks the parameters of EC2 here, because the schema of Ray does not. Needs boto3 and moto.
"""

from pathlib import Path

import pytest
import yaml

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto")

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
MY_ADDRESS = "203.0.113.7/32"


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """Deploy the stack in a mocked account. Returns the outputs of the stack."""
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "made-up")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes its SSH key there
        stacks = boto3.client("cloudformation")
        parameters = {"MyAddress": MY_ADDRESS, "MyVpc": boto3.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]}
        stacks.create_stack(
            StackName="mdssl",
            TemplateBody=(PROJECT / "clusters" / "aws-account.yaml").read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        [stack] = stacks.describe_stacks(StackName="mdssl")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        yield {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="module")
def instances(account) -> dict[str, dict]:
    """One instance of each node type, started as Ray does it: its description by EC2."""
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    text = (PROJECT / "cluster.yaml").read_text().replace("sg-CHANGE", account["SecurityGroup"])
    # moto has no image ids in its parameter store.
    image = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = text.replace("resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id", image)  # fmt: skip # noqa: E501
    config = _bootstrap_config(yaml.safe_load(text), no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        tags = {"ray-node-kind": "worker", "ray-user-node-type": name, "ray-node-name": name}
        provider.create_node(node_type["node_config"], tags, 1)
    found = boto3.client("ec2").describe_instances()["Reservations"]
    by_type = {}
    for instance in (instance for reservation in found for instance in reservation["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["ray-cluster-name"] == "mdssl", "the permissions of the head are restricted to this tag"
        by_type[tags["ray-user-node-type"]] = instance
    return by_type


def test_the_head_is_on_demand_and_workers_are_spot(instances):
    assert "InstanceLifecycle" not in instances["head"]
    for name in ("gpu", "gpu-g5", "gpu-g6e"):
        assert instances[name]["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in instances["gpu-on-demand"]


def test_every_node_has_imdsv2_its_role_and_the_security_group_of_the_stack(instances, account):
    for name, profile in (("head", "mdssl-head"), ("gpu", "mdssl-worker"), ("gpu-on-demand", "mdssl-worker")):
        assert instances[name]["MetadataOptions"]["HttpTokens"] == "required"
        assert instances[name]["IamInstanceProfile"]["Arn"].endswith(f"/{profile}")
        assert [group["GroupId"] for group in instances[name]["SecurityGroups"]] == [account["SecurityGroup"]]


def test_ray_creates_no_security_group_and_only_my_address_is_allowed(instances, account):
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert not [group for group in groups if "ray" in group["GroupName"]]
    [own] = [group for group in groups if group["GroupId"] == account["SecurityGroup"]]
    assert [addresses["CidrIp"] for rule in own["IpPermissions"] for addresses in rule["IpRanges"]] == [MY_ADDRESS]
