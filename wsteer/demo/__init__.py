"""The whole chain on a small real model: `model` fetches it, `demo` runs the commands."""
