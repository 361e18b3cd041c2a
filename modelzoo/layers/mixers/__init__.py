"""What mixes the elements of a sequence: state space, long convolution, causal attention."""
