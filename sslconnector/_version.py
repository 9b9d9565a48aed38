"""The one place that says which version this is."""

version = "0.1.0"
