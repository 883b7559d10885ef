"""Beyond one machine: a reward model as a service on Ray Serve, and whole data sets judged on Ray Data."""
