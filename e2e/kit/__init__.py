"""What the scenarios share: a cluster to talk to, models to serve, load to send."""
