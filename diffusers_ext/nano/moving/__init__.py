"""The nano world in motion: short videos of moving shapes in which the truth is known, and a judge trained on them."""
