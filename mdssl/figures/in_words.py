"""What figures show, in words with numbers: for readers who do not see them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdssl.figures.over_cost import setting_label
from mdssl.figures.scores import in_order, over_seeds
from mdssl.figures.style import METHODS

_MOST = 8
"""Datasets that are spelled out."""


def of_curves(over1: pd.DataFrame, over2: pd.DataFrame, union: pd.DataFrame, mixture: str) -> str:
    parts = []
    datasets = in_order(pd.concat([over1, over2])["eval_dataset"].unique(), mixture)
    for dataset in datasets[:_MOST]:
        said = []
        for rows, name, other, greek in ((over1, "lambda1", "lambda2", "λ1"), (over2, "lambda2", "lambda1", "λ2")):
            own = over_seeds(rows[rows["eval_dataset"] == dataset], [other, name])
            if len(own):
                high = own.loc[own["mean"].idxmax()]
                own = own[own[other] == high[other]]
                low = own.loc[own["mean"].idxmin()]
                at = {"λ1": "at λ2 = 0", "λ2": f"at λ1 = {high[other]:g}"}[greek]
                said.append(
                    f"over {greek} from {low['mean']:.1f} at {greek} = {low[name]:g} to {high['mean']:.1f} at "
                    f"{greek} = {high[name]:g} ({at})"
                )
        parts.append(f"{dataset}: {', '.join(said)}{_baseline(union, dataset)}.")
    return " ".join(["Top-1 in percent on", *parts, _more(datasets)]).strip()


def of_heatmap(rows: pd.DataFrame, union: pd.DataFrame, dataset: str) -> str:
    means = over_seeds(rows[rows["eval_dataset"] == dataset], ["lambda1", "lambda2"])
    low, high = means.loc[means["mean"].idxmin()], means.loc[means["mean"].idxmax()]
    ties = means["mean"].map("{:.1f}".format).eq(f"{high['mean']:.1f}").sum()
    rank = "the best" if ties == 1 else f"one of {ties} that are the best to one decimal"
    return (
        f"Heat map of {len(means)} cells: top-1 on {dataset} from {low['mean']:.1f} % at λ1 = {low['lambda1']:g}, "
        f"λ2 = {low['lambda2']:g} to {high['mean']:.1f} % at λ1 = {high['lambda1']:g}, λ2 = {high['lambda2']:g}, {rank}"
        f"{_baseline(union, dataset)}."
    )


def of_growth(means: pd.DataFrame, alone: pd.Series) -> str:
    parts = []
    datasets = sorted(means["eval_dataset"].unique(), key=lambda name: (name not in alone, name))
    for dataset in datasets[:_MOST]:
        own = means[means["eval_dataset"] == dataset].sort_values("num_domains")
        values = [f"{row['mean']:.1f} with {row['num_domains']}" for _, row in own.head(_MOST).iterrows()]
        single = f"; SimCLR on it alone {alone[dataset]:.1f}" if dataset in alone else ""
        parts.append(f"{dataset}: {', '.join(values)} training domains{single}.")
    return " ".join(["Top-1 in percent on", *parts, _more(datasets)]).strip()


def of_hours(means: pd.DataFrame) -> str:
    values = [
        f"{row['mean']:.2g} h with {row['num_domains']}" for _, row in means.sort_values("num_domains").iterrows()
    ]
    return f"Training time of MDSSL: {', '.join(values[:_MOST])} training domains."


def of_methods(means: pd.DataFrame, floor: pd.Series, mixture: str) -> str:
    parts = []
    datasets = in_order(means["eval_dataset"].unique(), mixture)
    for dataset in datasets[:_MOST]:
        own = means[means["eval_dataset"] == dataset].set_index("method")["mean"]
        values = [f"{label} {own[name]:.1f}" for name, (label, _) in METHODS.items() if name in own]
        values += [f"untrained encoder {floor[dataset]:.1f}"] if dataset in floor else []
        parts.append(f"{dataset}: {', '.join(values)}.")
    return " ".join(["Bars of top-1 in percent on", *parts, _more(datasets)]).strip()


def of_costs(points: pd.DataFrame) -> str:
    front = points[points["on_front"]].sort_values("cost")
    ends = [front.iloc[0], front.iloc[-1]] if len(front) > 1 else [front.iloc[0]]
    said = " to ".join(f"{end['score']:.1f} % for {end['cost']:.2g} h ({setting_label(end)})" for end in ends)
    return (
        f"{len(points)} trials, mean top-1 from {points['score'].min():.1f} to {points['score'].max():.1f} %, training "
        f"from {points['cost'].min():.2g} to {points['cost'].max():.2g} h; {len(front)} on the Pareto front: {said}."
    )


def of_similarities(matrices: Mapping[str, np.ndarray], groups: Mapping[str, int]) -> str:
    domain = np.repeat(np.arange(len(groups)), list(groups.values()))
    same = domain[:, None] == domain[None, :]
    off_diagonal = ~np.eye(len(domain), dtype=bool)
    parts = []
    for title, matrix in matrices.items():
        within, across = matrix[same & off_diagonal], matrix[~same]
        said = [f"within {np.nanmean(within):.2f}"] if within.size else []
        said += [f"across {np.nanmean(across):.2f}"] if across.size else []
        parts.append(f"{title}: {', '.join(said)}")
    counts = ", ".join(f"{name} ({count} classes)" for name, count in groups.items())
    return f"Mean cosine similarity of different classes within and across domains, of {counts}. {'; '.join(parts)}."


def of_embedding(samples: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    parts = []
    for title, panel in samples.items():
        rows = np.concatenate(list(panel.values())).astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        domain = np.repeat(np.arange(len(panel)), [len(part) for part in panel.values()])
        similarity = rows @ rows.T
        np.fill_diagonal(similarity, -np.inf)
        own = 100 * (domain[similarity.argmax(axis=1)] == domain).mean()
        parts.append(f"{title}: {own:.0f} %")
    domains = ", ".join(dict.fromkeys(name for panel in samples.values() for name in panel))
    return (
        f"Points of {domains}, coloured by domain. Share of images whose nearest neighbour in that space "
        f"(cosine) is of their own domain: {'; '.join(parts)}."
    )


def of_terms(metrics: pd.DataFrame) -> str:
    names = [name for name in ("loss", "alignment", "within", "across") if metrics[name].notna().any()]
    first, last = metrics.iloc[0], metrics.iloc[-1]
    said = [f"{'total' if name == 'loss' else name} from {first[name]:.2f} to {last[name]:.2f}" for name in names]
    return f"From step {first['step']:.0f} to step {last['step']:.0f}: {', '.join(said)}."


def of_clusters(rounds: pd.DataFrame) -> str:
    first, last = rounds.iloc[0], rounds.iloc[-1]
    churn = (
        f"; at the last {100 * last['churn']:.1f} % of images changed their cluster" if pd.notna(last["churn"]) else ""
    )
    return (
        f"{len(rounds)} clusterings: purity from {first['purity']:.2f} to {last['purity']:.2f}, NMI from "
        f"{first['nmi']:.2f} to {last['nmi']:.2f}, images kept from {100 * first['kept_share']:.0f} to "
        f"{100 * last['kept_share']:.0f} %{churn}."
    )


def _baseline(union: pd.DataFrame, dataset: str) -> str:
    top1 = union.loc[union["eval_dataset"] == dataset, "top1"]
    return f"; SimCLR on the union has {top1.mean():.1f} %" if len(top1) else ""


def _more(datasets: list[str]) -> str:
    return f"And {len(datasets) - _MOST} more datasets." if len(datasets) > _MOST else ""
