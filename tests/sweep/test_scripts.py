"""The sweep scripts: the trials that they plan for given flags (``--dry-run``)."""

import re
import sys

import pytest
import torch
import torchvision
from sweep_runs import load_script

from mdssl.cli.parse import parse
from mdssl.cli.sweeps.mixtures import Mixtures
from mdssl.cli.sweeps.search import Search
from mdssl.storage.location import Location
from mdssl.sweep.search.search import Trials


@pytest.fixture
def planned(tiny_data, tmp_path, capsys):
    """Run a script with ``--dry-run`` on the tiny domains. Returns its planned trials as {id: words}."""

    def plan(name: str, *flags: object, code: int = 0) -> dict[str, str]:
        script = load_script(name)
        base = ["--domains", "tiny-a", "tiny-b", "tiny-c", "--evaluate", "tiny-a", "--batch-per-domain", 8]
        base += ["--data", tiny_data, "--storage", tmp_path, "--dry-run"]
        assert script.main([str(flag) for flag in [*base, *flags]]) == code
        said = capsys.readouterr()
        print(said.err, file=sys.stderr)
        lines = re.findall(r"^  ([0-9a-f]{12})  (.*?) +queued to train", said.out, re.MULTILINE)
        assert len(dict(lines)) == len(lines), "each trial is listed once"
        return dict(lines)

    return plan


def test_lambda_grid_plans_baselines_and_all_lambda_pairs(planned):
    assert list(planned("lambda_grid", "--lambda1", 1, 0.9, "--lambda2", 0, 0.1).values()) == [
        "random", "simclr", "mdssl λ1=1 λ2=0", "mdssl λ1=1 λ2=0.1", "mdssl λ1=0.9 λ2=0", "mdssl λ1=0.9 λ2=0.1",
    ]  # fmt: skip


def test_mixtures_plans_growing_mixtures_and_single_domains_by_default(planned):
    assert list(planned("mixtures").values()) == [
        "random",
        "simclr tiny-a",
        "simclr tiny-b",
        "simclr tiny-c",
        "simclr tiny-a+tiny-b",
        "mdssl tiny-a+tiny-b λ1=1 λ2=0.1",
        "simclr tiny-a+tiny-b+tiny-c",
        "mdssl tiny-a+tiny-b+tiny-c λ1=1 λ2=0.1",
    ]


def test_mixtures_can_be_selected_by_size_and_by_name(planned):
    plan = planned("mixtures", "--subsets", 2, "--mixtures", "tiny-c+tiny-a", "tiny-a+tiny-b", "--no-singles")
    mixtures = [words.split()[1] for words in plan.values() if words.startswith("simclr")]
    assert mixtures == ["tiny-c+tiny-a", "tiny-a+tiny-b", "tiny-a+tiny-c", "tiny-b+tiny-c"]
    assert len(plan) == 1 + 2 * 4


def test_equal_compute_gives_single_domains_the_batch_size_of_each_mixture(planned):
    flags = ["--mixtures", "tiny-a+tiny-b", "tiny-a+tiny-b+tiny-c", "--equal-compute"]
    singles = [
        words for words in planned("mixtures", *flags).values() if words.startswith("simclr") and "+" not in words
    ]
    assert singles == [
        "simclr tiny-a batch_per_domain=16", "simclr tiny-a batch_per_domain=24",
        "simclr tiny-b batch_per_domain=16", "simclr tiny-b batch_per_domain=24", "simclr tiny-c batch_per_domain=24",
    ]  # fmt: skip


def test_added_methods_do_not_change_the_other_trials_of_a_sweep(planned):
    before = planned("lambda_grid")
    plan = planned("lambda_grid", "--add-methods", "simclr-weighted", "--grid", "negative_weight", 0, 0.25, 0.5)
    assert set(before) < set(plan)
    assert [words for id, words in plan.items() if id not in before] == [
        f"simclr-weighted negative_weight={weight}" for weight in ("0", "0.25", "0.5")
    ]
    mixed = planned("mixtures", "--no-singles", "--add-methods", "simclr-weighted").values()
    assert [words for words in mixed if "weighted" in words] == [
        "simclr-weighted tiny-a+tiny-b", "simclr-weighted tiny-a+tiny-b+tiny-c",
    ]  # fmt: skip


def test_a_search_over_negative_weight_has_simclr_as_baseline(planned, tiny_data, tmp_path):
    flags = ["--methods", "simclr-weighted", "--search", "grid", "--range", "negative_weight", 0, 1, 0.5]
    assert list(planned("search", *flags).values()) == [
        "random", "simclr", *(f"simclr-weighted negative_weight={weight}" for weight in ("0", "0.5", "1")),
    ]  # fmt: skip
    settings = Search(
        **{"domains": ("tiny-a", "tiny-b"), "methods": ("simclr-weighted",), "batch_per_domain": 8},
        **{"range": (("negative_weight", "0", "1"),), "search": "random", "data": tiny_data, "lr_warmup_iterations": 1},
    )
    trials = Trials(Location.of(tmp_path), settings, ["random", "simclr", *settings.searched])
    assert trials.searched_methods == {"simclr-weighted"}


def test_given_domains_replace_the_evaluation_datasets_of_the_preset():
    def settings(*argv):
        return parse(Mixtures, prog="", description="", argv=argv)

    assert len(settings().evaluate) == 4
    assert settings("--domains", "a", "b").evaluate == ("a", "b")
    named = settings("--mixtures", "a+b", "b+c")
    assert named.domains == named.evaluate == ("a", "b", "c")
    assert settings("--domains", "a", "b", "--evaluate", "c").evaluate == ("c",)


def test_clustering_plans_baselines_and_all_combinations(planned):
    plan = planned("clustering", "--clusters", 3, 4, "--epsilons", 1, 0.5, "--rules", "farthest", "runner-up")
    methods = [words.split()[0] for words in plan.values()]
    counts = {method: methods.count(method) for method in methods}
    assert counts == {"random": 1, "simclr": 1, "mdssl": 1, "mdssl-clustered": 2, "mdssl-robust": 2 * 2 * 2}
    assert "mdssl-robust K=4 ε=0.5 rule=runner-up λ1=1 λ2=0.1" in plan.values()


def test_clustered_trials_end_early_only_after_their_first_clustering(planned, capsys):
    asha = "clustering", "--clusters", 3, "--rules", "farthest", "--iterations", 80, "--scheduler", "asha"
    planned(*asha, "--warmups", 8, 9, code=2)
    said = "scheduler 'asha' ends trials from step 9 on, but mdssl-clustered is SimCLR until step 9; give --grace-steps"
    assert said in capsys.readouterr().err
    assert planned(*asha, "--warmups", 8, 9, "--grace-steps", 9)
    assert planned(*asha, "--warmups", 8)
    search = "search", "--num-clusters", 3, "--lambda2", 0.1, "--methods", "mdssl-clustered", *asha[5:], "--trials", 2
    for axis in (("--grid", "warmup_iterations", 20, 8), ("--range", "warmup_iterations", 8, 20)):
        planned(*search, *axis, code=2)
        assert "mdssl-clustered is SimCLR until step 20; give --grace-steps, such as 50" in capsys.readouterr().err
        assert planned(*search, *axis, "--grace-steps", 9)


def test_epsilon_stays_constant_where_it_is_below_epsilon_final(planned):
    one = "clustering", "--clusters", 3, "--rules", "farthest"
    plan = planned(*one, "--epsilons", 0, 1)
    assert [words for words in plan.values() if words.startswith("mdssl-robust")] == [
        "mdssl-robust ε=0 epsilon_final=0 λ1=1 λ2=0.1",
        "mdssl-robust ε=1 epsilon_final=0.01 λ1=1 λ2=0.1",
    ]
    assert len(planned(*one, "--epsilons", 2, 3, "--epsilon-final", 2)) == 6
    planned(*one, "--epsilons", 2, 3, "--epsilon-final", 4, code=2)


def test_with_two_clusters_all_outlier_rules_give_one_trial(planned):
    plan = planned("clustering", "--clusters", 2, "--rules", "farthest", "runner-up")
    assert sum(words.startswith("mdssl-robust") for words in plan.values()) == 1


def test_a_trial_shared_by_sweeps_has_one_id(planned):
    grid, mixtures, clustering = (set(planned(name)) for name in ("lambda_grid", "mixtures", "clustering"))
    assert len(grid & mixtures) == len(grid & clustering) == 3, "random, simclr, and mdssl with λ1=1 and λ2=0.1"


def test_any_setting_can_be_a_grid_axis(planned):
    flags = ["--lambda1", 1, "--lambda2", 0.1, "--grid", "learning_rate", 2, 4, "--grid", "stem", "imagenet", "cifar"]
    plan = planned("lambda_grid", *flags)
    assert len(plan) == 2 + 2 * 2 * 2, "an untrained encoder has no learning rate"
    assert "mdssl stem=cifar learning_rate=4 λ1=1 λ2=0.1" in plan.values()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (
            "lambda_grid",
            ["--grid", "learning_rte", 2],
            "learning_rte.*Did you mean 'learning_rate'",
        ),
        ("lambda_grid", ["--grid", "lambda1", 1], "unknown grid axis 'lambda1'"),
        ("lambda_grid", ["--grid", "iterations", "many"], "iterations is 'many'; it must be a whole number"),
        ("lambda_grid", ["--grid", "stem"], "axis stem has no value"),
        ("lambda_grid", ["--grid", "stem", "cifra"], "Did you mean 'cifar'"),
        ("lambda_grid", ["--grid", "stem", "cifar", "--grid", "stem", "imagenet"], "axis stem is in --grid twice"),
        ("clustering", ["--grid", "epsilon", 1], "unknown grid axis 'epsilon'"),
        ("clustering", ["--rules", "far"], "Did you mean 'farthest'"),
        ("clustering", ["--clusters", 2, 2], "axis clusters has a value twice"),
        ("clustering", ["--warmups", 80], "warmup_iterations is 80, but iterations is 80"),
        ("lambda_grid", ["--input-size", 64], "there is no pretrained encoder"),
        (
            "lambda_grid",
            ["--negative-weight", 0.3],
            "is 0.3, but methods random, simclr, mdssl have no such setting; .* --add-methods: simclr-weighted",
        ),
        ("lambda_grid", ["--grid", "negative-weight", 0.3], "negative_weight varies, but"),
        ("search", ["--epsilon", 0.5], "epsilon is 0.5, but methods random, simclr, mdssl have no such setting"),
        ("lambda_grid", ["--gradient-caching", "--grid", "norm", "group", "batch"], "batch-norm takes its statistics"),
        (
            "clustering",
            ["--search", "random", "--trials", 2, "--range", "num_clusters", 2, 3],
            "num_clusters is set by other flags",
        ),
        ("lambda_grid", ["--add-methods", "simclr-wieghted"], "Did you mean 'simclr-weighted'"),
        ("mixtures", ["--equal-compute", "--no-singles"], "cannot be combined"),
        ("mixtures", ["--equal-compute", "--batch-per-domain", 40], "but domain 'tiny-a' has 64 training"),
        ("mixtures", ["--mixtures", "tiny-a"], "is not two domains or more"),
        ("mixtures", ["--mixtures", "tiny-a+"], "is not two domains or more"),
        ("mixtures", ["--subsets", 4], "subsets has 4; it must be .* at most the number of domains, 3"),
        ("mixtures", ["--mixtures", "tiny-a+tiny-a"], "'tiny-a' is 2 times"),
        ("mixtures", ["--mixtures", "tiny-a+tiny-x"], "unknown dataset 'tiny-x'"),
    ],
)
def test_wrong_flags_of_sweeps_are_refused(planned, capsys, script, flags, message):
    assert planned(script, *flags, code=2) == {}
    assert re.search(message, capsys.readouterr().err)


def test_a_pretrained_encoder_adds_one_trial_to_a_sweep(planned, tmp_path):
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    plan = planned("lambda_grid", "--lambda1", 1, "--lambda2", 0.1, "--seeds", 0, 1, "--pretrained", file)
    assert [words for words in plan.values() if words.startswith("pretrained")] == ["pretrained resnet18.pth"]


def test_paper_plans_trials_on_prepared_datasets_and_skips_the_rest(papers_data, tmp_path, capsys):
    where = ["--data", str(papers_data), "--storage", str(tmp_path / "results"), "--batch-per-domain", "8"]
    script = load_script("paper")
    assert script.main(["table1", "figureA1", "--dry-run", *where]) == 0
    text = capsys.readouterr().out
    assert "skipped: simclr stl10; not prepared: stl10" in text
    assert "paper: 6 trials on 3 mixtures" in text
    marked = "cifar10 (2 of 10 classes, 8×8 pixels), svhn (2 of 10 classes, 8×8 pixels)"
    assert f"not the published datasets of these names: {marked};" in " ".join(text.split())
    assert "mdssl cifar10 (2 of 10 classes, 8×8 pixels)+svhn (2 of 10 classes, 8×8 pixels) λ1=" in text
    assert not (tmp_path / "results").exists()
    assert script.main(["table4", "--dry-run", *where]) == 2
    assert "no trial of table4 can be done" in capsys.readouterr().err
    assert script.main(where) == 2
    assert "no experiment is named" in capsys.readouterr().err


def test_table_5_needs_no_mixture_with_a_pretrained_encoder(papers_data, tmp_path, capsys):
    script = load_script("paper")
    where = ["--data", str(papers_data), "--storage", str(tmp_path / "results"), "--batch-per-domain", "8"]
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    assert script.main(["table5", "--pretrained", str(file), "--dry-run", *where]) == 0
    text = capsys.readouterr().out
    assert "pretrained resnet18.pth" in text and "to score: cifar10" in text
    assert script.main(["table5", "--dry-run", *where]) == 2
    assert "no encoder is given with --pretrained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("domains", "said"), [(("tiny-a", "tiny-b"), True), (("builtin-shapes", "builtin-textures"), False)]
)
def test_the_plan_notes_crops_of_preset_quick_unless_images_are_synthetic(tiny_data, capsys, domains, said):
    script = load_script("lambda_grid")
    where = ["--data", tiny_data, "--storage", f"{tiny_data}/none", "--batch-per-domain", "8", "--dry-run"]
    assert script.main(["--domains", *domains, "--evaluate", *domains, *where]) == 0
    assert ("preset quick crops no less than 0.5 of an image" in " ".join(capsys.readouterr().out.split())) is said


@pytest.mark.parametrize(("iterations", "said"), [(10, True), (11, False)])
def test_the_plan_notes_a_warmup_as_long_as_the_training(tiny_data, capsys, iterations, said):
    """The preset quick warms up over 10 iterations."""
    where = ["--data", tiny_data, "--storage", f"{tiny_data}/none", "--batch-per-domain", "8", "--dry-run"]
    flags = ["--domains", "tiny-a", "tiny-b", "--iterations", str(iterations), *where]
    assert load_script("lambda_grid").main(flags) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (f"warms up over 10 iterations, but a trial has {iterations}" in text) is said
