"""Things shown once: a box and a name teach a concept, in the same second and without training."""
