"""Tools of perturbation methods: copies of an image through the model, superpixels, linear fits.

| file | content |
|---|---|
| `predict.py` | a model on many perturbed copies of an image |
| `segment.py`, `coalitions.py` | superpixels, and copies with a subset of them |
| `linear.py` | weighted linear models of the scores |
| `winograd.py` | faster 3×3 convolutions of forward passes on CPU |
"""
