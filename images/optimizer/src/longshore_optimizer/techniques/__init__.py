"""One file a technique: what it applies to, which candidates it proposes, how one is made."""
