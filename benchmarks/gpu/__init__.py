"""GPU measurements as functions of device, dtype and shape, which unit tests run on the CPU at a small size.

``tests/gpu/run.sh`` runs them at full size on a GPU. **No GPU has run them yet.**
"""
