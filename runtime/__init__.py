"""How a run runs: configs into objects, the mesh, checkpoints, metrics, profiles. Knows no model and no method."""

from longview.names import check

check(__name__)
