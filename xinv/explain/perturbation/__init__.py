"""Tools of the methods that perturb: copies of an image through the model, superpixels, linear
fits.

| file | what |
|---|---|
| `predict.py` | a model on many perturbed copies of an image |
| `segment.py`, `coalitions.py` | superpixels, and which of them a copy keeps |
| `linear.py` | weighted linear models of the scores |
| `winograd.py` | faster 3×3 convolutions of forward passes on CPU |
"""
