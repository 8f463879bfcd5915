"""`prunus doctor`: what can be pruned, what cannot, and what to do about it."""

from prunus.pipelines.diagnosis.diagnose import Diagnosis, diagnose, run_doctor

__all__ = [
    "Diagnosis",
    "diagnose",
    "run_doctor",
]
