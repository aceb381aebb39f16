"""Figures of a leaderboard and of its trials: a function for each kind returns a matplotlib figure, without pyplot.

    from mdssl import figures, leaderboard

    board = leaderboard.read("results")
    figures.lambda_heatmap(board, "svhn")

A notebook displays the figure. Its ``axes`` are matplotlib axes, which you can change; `save` writes SVG, PNG or PDF.
Figures of the paper are 2 `domains_against_top1`, 3 `lambda_curves`, 4 `embedding`, 5 `methods_bars`, A.1 and A.2
`class_similarity`, and A.3 `training_hours`. `gallery` returns all figures of a leaderboard. Figures drawn inside
``with figures.style_context("paper", "serif.mplstyle"):`` have no notes, and use the font of that matplotlib style.
"""

from mdssl.figures.contours import setting_contours
from mdssl.figures.cost import cost_against_score
from mdssl.figures.curves import lambda_curves
from mdssl.figures.domains import domains_against_top1, training_hours
from mdssl.figures.gallery import gallery
from mdssl.figures.heatmaps import lambda_heatmap
from mdssl.figures.importance import setting_importance
from mdssl.figures.kind import Entry, Gallery
from mdssl.figures.latent_space import class_similarity, embedding
from mdssl.figures.look import Figure, style_context
from mdssl.figures.measured import lambda_measures
from mdssl.figures.methods import methods_bars
from mdssl.figures.one_trial import clusters, loss_terms, trial_gallery
from mdssl.figures.pareto import seen_against_unseen
from mdssl.figures.progress import sweep_progress
from mdssl.figures.saving import save
from mdssl.figures.slices import setting_slices
from mdssl.figures.style import COLUMN, PAGE
