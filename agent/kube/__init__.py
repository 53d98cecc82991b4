"""How components speak to a Kubernetes API server, ours or any other: client, informers, ticks, selectors, events."""
