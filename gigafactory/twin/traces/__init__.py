"""Job traces: read in the forms that clusters publish, checked, compared, or made up.

`load` reads and checks, `against` holds a trace to the published summary of the cluster that it
should be of, `like` makes one up after such a summary (modelled), `pools` reads virtual clusters.
"""

from gigafactory.twin.traces.forms import FORMS, load
from gigafactory.twin.traces.pools import VcPool, pools
from gigafactory.twin.traces.published import Difference, against, known, names, verdict
from gigafactory.twin.traces.synthetic import like
from gigafactory.twin.traces.trace import RowFault, Trace, summary, to_table

__all__ = [
    "FORMS",
    "Difference",
    "RowFault",
    "Trace",
    "VcPool",
    "against",
    "known",
    "like",
    "load",
    "names",
    "pools",
    "summary",
    "to_table",
    "verdict",
]
