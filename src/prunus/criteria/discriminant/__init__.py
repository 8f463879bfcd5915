"""Criteria based on discriminant information and related measures."""

from prunus.criteria.discriminant.cherry import CherryPicking
from prunus.criteria.discriminant.classes import best_units, class_scores
from prunus.criteria.discriminant.dcp import DCP, Bootstrap
from prunus.criteria.discriminant.deep_lda import DeepLDA
from prunus.criteria.discriminant.elimination import ExactDI
from prunus.criteria.discriminant.fisher import FDR, DiLOSS
from prunus.criteria.discriminant.granular import Granular
from prunus.criteria.discriminant.information import (
    LayerInformation,
    discriminant_information,
    discriminant_matrix,
    rank_layers,
    regression_matrix,
    ridge_lse,
    sort_layers,
)
from prunus.criteria.discriminant.latent import LatentUtility, latent_utility, otsu_threshold
from prunus.criteria.discriminant.ratios import DFDR, TFDR, RidgeLSE, dfdr
from prunus.criteria.discriminant.stacked import StackedConsumer
from prunus.criteria.discriminant.structural import Structural, deleterious
from prunus.criteria.discriminant.subspace import DCA, kung_tian, subspace_information

__all__ = [
    "DCA",
    "DCP",
    "DFDR",
    "FDR",
    "TFDR",
    "Bootstrap",
    "CherryPicking",
    "DeepLDA",
    "DiLOSS",
    "ExactDI",
    "Granular",
    "LatentUtility",
    "LayerInformation",
    "RidgeLSE",
    "StackedConsumer",
    "Structural",
    "best_units",
    "class_scores",
    "deleterious",
    "dfdr",
    "discriminant_information",
    "discriminant_matrix",
    "kung_tian",
    "latent_utility",
    "otsu_threshold",
    "rank_layers",
    "regression_matrix",
    "ridge_lse",
    "sort_layers",
    "subspace_information",
]
