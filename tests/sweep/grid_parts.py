"""Plans and scores, for tests of the plan of a sweep."""

from mdssl.sweep.grid import evaluation_fingerprint, plan, trials

METHODS = [{"method": "random"}, {"method": "simclr"}, {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1}]


def states(storage, settings, methods=METHODS):
    return [str(work) for work in plan(storage, trials(settings, methods), settings)]


def score(settings, dataset, **changes):
    numbers = {"top1": 50.0, "top5": None, "knn_top1": 40.0, "num_classes": 4, "num_train": 64, "num_test": 32}
    return {
        **numbers,
        "features": "encoder",
        "probe": settings.probe_config.each()[0].name,
        "probe_settings": settings.probe_config.each()[0].settings(),
        "eval_seconds": 1.0,
        "eval_dataset": dataset,
        "data_fingerprint": evaluation_fingerprint(settings.data, dataset),
    } | changes
