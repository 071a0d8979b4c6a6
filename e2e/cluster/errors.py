"""The one error of the cluster tool: a sentence with the cause and the next step."""


class ClusterError(Exception):
    """Something the user has to know; its text names the cause and what to do next."""
