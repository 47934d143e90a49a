"""What Prometheus and people may look at: metrics, health, and the pages that show them.

Everything is read from the parts of the daemon when somebody asks. Nothing here is on the way of an
answer. Names follow Prometheus' naming rules. This room imports the rooms that it looks at.
"""
