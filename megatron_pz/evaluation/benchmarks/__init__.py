"""Ask benchmark questions of a model, keep every answer, and score and compare models with intervals."""
