"""Architecture search: which of several operations each block of a network gets."""
