"""The whole chain on a small real model: `model` fetches it, `chain` runs the commands."""
