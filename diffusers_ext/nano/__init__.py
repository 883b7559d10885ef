"""The nano world: small pictures of coloured shapes, in which the truth is known exactly."""
