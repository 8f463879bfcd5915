"""The dimensions of the last hidden layer, as a section of other pages."""

from prunus.reports.latent.section import latent_cuts_section, latent_section
from prunus.reports.latent.words import latent_sentence

__all__ = [
    "latent_cuts_section",
    "latent_section",
    "latent_sentence",
]
