"""How a run runs: configs into objects, the mesh, checkpoints, metrics, profiles. Knows no model and no method."""
