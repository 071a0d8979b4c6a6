"""Pure builders of Kubernetes objects, one file a kind: values in, plain dicts out."""
