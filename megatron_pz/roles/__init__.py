"""The rules of the game between mask generator and mask predictor: text in, text and numbers out, no tensors."""
