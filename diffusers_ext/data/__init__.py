"""Preference data for training and evaluating reward models: records, files, merging, splitting, published data sets.

See docs/data.md.
"""

from .checking import Report, check
from .converting import Converted, convert
from .formats import FORMATS
from .located import Located, locate
from .media import MediaFolder
from .merging import merge
from .problems import DataError, InvalidRecordError, Problem
from .ratings import pairs_from_ratings
from .reading import Loaded, load, read
from .records import Preference, Rating, Source
from .splitting import Plan, plan_splits, split_file
from .streaming import stream
from .votes import Vote, VoteStore
from .writing import write

__all__ = [
    "FORMATS",
    "Converted",
    "DataError",
    "InvalidRecordError",
    "Loaded",
    "Located",
    "MediaFolder",
    "Plan",
    "Preference",
    "Problem",
    "Rating",
    "Report",
    "Source",
    "Vote",
    "VoteStore",
    "check",
    "convert",
    "load",
    "locate",
    "merge",
    "pairs_from_ratings",
    "plan_splits",
    "read",
    "split_file",
    "stream",
    "write",
]
