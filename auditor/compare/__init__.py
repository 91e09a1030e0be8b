"""Compare two or more runs, image by image: significantly better, significantly worse, or no difference found.

If the runs have different images, the metrics are computed again from the records of the common ones. A probe whose
settings differ between the runs is named and not compared. Tests, for each metric and pair of runs:

- ``mcnemar``: proportions over the same images (McNemar's exact test);
- ``bootstrap``: other means over the same images (paired bootstrap);
- ``intervals``: everything else, from the two published intervals as if the images were different ones (conservative).

P-values are corrected for their number by Holm's method in two families that share 5 % equally: the key metric of each
probe (its first), and all other metrics. A model that did not change is called better or worse in any metric in at most
5 % of comparisons.
"""
