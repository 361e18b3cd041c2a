"""The arrays of the linear scan and of its forms: B batch, T tokens, D channels; real or complex."""

from jaxtyping import Array, Inexact

Tokens = Inexact[Array, 'b t d']
Constant = Inexact[Array, ' d']  # a decay that is the same for all tokens
State = Inexact[Array, 'b d']
