import pytest

from mdssl.config.trial import TrialConfig
from mdssl.paper.experiments import EXPERIMENTS, PaperTrial, experiment
from mdssl.paper.published import published

ALL_TRIALS = [trial for found in EXPERIMENTS.values() for trial in found.trials]


@pytest.mark.parametrize("name", ["table1", "table3", "table4", "table5"])
def test_trials_and_datasets_of_a_table_match_its_published_values(name):
    cells = published(name)
    models = list(
        cells[["method", "train_mixture", "lambda1", "lambda2"]].drop_duplicates().itertuples(index=False, name=None)
    )
    trials = [
        (trial.method, "+".join(trial.domains), trial.lambda1, trial.lambda2)
        for trial in experiment(name).trials
        if trial.method != "pretrained"
    ]
    assert trials == [model for model in models if model[0] != "pretrained"]
    assert len(experiment(name).trials) == len(models)
    assert experiment(name).evaluate == tuple(cells["eval_dataset"].unique())


def test_experiments_list_the_same_domains_in_the_same_order():
    orders = {}
    for trial in ALL_TRIALS:
        orders.setdefault(frozenset(trial.domains), set()).add(trial.domains)
    assert [found for found in orders.values() if len(found) > 1] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trials_of_an_experiment_are_unique(name):
    trials = EXPERIMENTS[name].trials
    assert len(set(trials)) == len(trials)


@pytest.mark.parametrize("trial", sorted({trial for trial in ALL_TRIALS if trial.domains}, key=str))
def test_every_trial_is_a_valid_training_configuration(trial):
    config = TrialConfig(**trial.settings)
    assert (config.method, config.domains, config.lambda1) == (trial.method, trial.domains, trial.lambda1)


def test_clustered_trials_use_the_schedule_of_the_paper():
    trial = experiment("figure4").trials[1]
    config = TrialConfig(**trial.settings)
    assert (config.method, config.lambda1, config.lambda2) == ("mdssl-robust", 0.9, 0.1)
    schedule = (config.num_clusters, config.warmup_iterations, config.recluster_every, config.epsilon)
    assert schedule == (2, 480, 2400, 1.0), "section 4"
    assert PaperTrial(method="pretrained").settings == {"method": "pretrained"}


def test_unknown_experiments_are_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown experiment of the paper 'figure_A1'.*Did you mean 'figureA1'"):
        experiment("figure_A1")
