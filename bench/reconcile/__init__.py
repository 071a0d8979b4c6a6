"""How fast, how cheaply and how quietly the operator brings many ModelDeployments to where they belong."""
