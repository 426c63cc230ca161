"""What a GPU is measured by: functions of device, dtype and shape, which unit tests run on the CPU at toy size.

``tests/gpu/run.sh`` runs them at full size on a card. **No GPU has run them yet.**
"""
