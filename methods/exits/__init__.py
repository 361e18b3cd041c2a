"""Early exits: objectives for networks that run as far as an example needs."""
