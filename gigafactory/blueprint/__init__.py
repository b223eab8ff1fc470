"""The one file: its schema, how it is read, and all that can be wrong with it.

blueprint = load("laptop")                      # by name, or by path
blueprint = load("mine.yaml", ["sites.milan.power=62MW"])
"""

from gigafactory.blueprint.load import load, shipped
from gigafactory.blueprint.schema import Blueprint, JobSpec

__all__ = ["Blueprint", "JobSpec", "load", "shipped"]
